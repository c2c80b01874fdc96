import pytest

# Before any of them is imported: what they assert is then shown as in the tests.
pytest.register_assert_rewrite("tests.helpers")
