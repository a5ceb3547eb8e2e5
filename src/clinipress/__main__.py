"""``python -m clinipress``: the same as the command ``clinipress``."""

from clinipress.cli.commands import main

if __name__ == "__main__":
    main()
