// The lanes of a step as typed arrays: unpacked, searched, and summed up. One module with `timeline.js`, which follows it.

const STRIDE = 8; // pieces between two stored sums

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Index of the first value greater than `value` in an ascending array, from `from` on. */
function after(array, value, from = 0) {
  let step = 1;
  while (from + step < array.length && array[from + step] <= value) step *= 2;
  let low = from, high = Math.min(array.length, from + step);
  while (low < high) {
    const middle = (low + high) >> 1;
    if (array[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** A header in JSON, whose groups have lanes; of each lane begin, end, event begin, event end (float32) and activity (uint32). */
function unpack(bytes) {
  const { buffer } = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice();
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let offset = 4 + size;
  const take = (Kind, count) => {
    offset += 4 * count;
    return new Kind(buffer, offset - 4 * count, count);
  };
  for (const lane of header.groups.flatMap((group) => group.lanes)) {
    for (const column of ["begin", "end", "eventBegin", "eventEnd"]) lane[column] = take(Float32Array, lane.count);
    lane.activity = take(Uint32Array, lane.count);
  }
  return header;
}

/** Stores in the lane how long each shade lasts before every STRIDE-th piece; `shadeOf` is the shade of each activity. */
function storeSums(lane, shadeOf, numShades) {
  const sums = new Float64Array((Math.floor(lane.count / STRIDE) + 1) * numShades), now = new Float64Array(numShades);
  for (let i = 0; i <= lane.count; i++) {
    if (i % STRIDE === 0) sums.set(now, (i / STRIDE) * numShades);
    if (i < lane.count) now[shadeOf[lane.activity[i]]] += lane.end[i] - lane.begin[i];
  }
  Object.assign(lane, { sums, shadeOf, numShades, now });
}

/** The shade that lasts longest in the pieces `from` to `to`. */
function dominant({ activity, begin, end, sums, shadeOf, numShades, now }, from, to) {
  if (to - from === 1) return shadeOf[activity[from]];
  const first = Math.ceil(from / STRIDE), last = Math.floor(to / STRIDE), isStored = first < last;
  for (let s = 0; s < numShades; s++) now[s] = isStored ? sums[last * numShades + s] - sums[first * numShades + s] : 0;
  for (let i = from; i < to; i++) {
    if (isStored && i === first * STRIDE) i = last * STRIDE;
    if (i < to) now[shadeOf[activity[i]]] += end[i] - begin[i];
  }
  let best = 0;
  for (let s = 1; s < numShades; s++) if (now[s] > now[best]) best = s;
  return best;
}

/** Stores how many pieces before each match; returns the number of events that match. */
function storeMatches(lane, isMatch) {
  let count = 0;
  lane.hits = isMatch && new Uint32Array(lane.count + 1);
  for (let i = 0; isMatch && i < lane.count; i++) {
    lane.hits[i + 1] = lane.hits[i] + isMatch[lane.activity[i]];
    count += isMatch[lane.activity[i]] && lane.begin[i] === lane.eventBegin[i];
  }
  return count;
}

/** The events of lanes between two times, in order of their begin: the first `most`, and the number of all. The pieces of an event
 *  have at most a few others between them, those of the waits inside it. */
function eventsBetween(lanes, begin, end, most) {
  const first = [], RECENT = 8;
  let count = 0;
  for (const lane of lanes) {
    const { activity, eventBegin } = lane, from = after(lane.end, begin);
    for (let i = from, listed = 0; i < lane.count && lane.begin[i] < end; i++) {
      let j = i - 1;
      while (j >= from && j >= i - RECENT && (activity[j] !== activity[i] || eventBegin[j] !== eventBegin[i])) j--;
      if (j >= from && j >= i - RECENT) continue; // another piece of an event that is counted
      count++;
      if (listed++ < most) first.push({ lane, i });
    }
  }
  first.sort((a, b) => a.lane.eventBegin[a.i] - b.lane.eventBegin[b.i]);
  return { events: first.slice(0, most), count };
}

/** Kind → how long it lasts between two times. */
function timeOfKinds(lane, activities, begin, end) {
  const sums = {};
  for (let i = after(lane.end, begin); i < lane.count && lane.begin[i] < end; i++) {
    const { kind } = activities[lane.activity[i]];
    sums[kind] = (sums[kind] ?? 0) + Math.min(end, lane.end[i]) - Math.max(begin, lane.begin[i]);
  }
  return sums;
}
