"""Things to try, each run by the tests too."""
