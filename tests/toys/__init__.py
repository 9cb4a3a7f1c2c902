"""One file per extension point, as a contributor would write it; ``tests/test_extensions.py`` adds the line."""
