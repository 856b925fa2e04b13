import pytest

pytest.register_assert_rewrite(f"{__name__}.checks_in_one_process", f"{__name__}.checks_between_processes")
