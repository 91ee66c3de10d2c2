"""`arkwright completion`: scripts that teach a shell our commands and options."""

from __future__ import annotations

import click

from arkwright.cli.parameters import Arguments

_VARIABLE = "_ARKWRIGHT_COMPLETE"


@click.command(
    "completion",
    cls=Arguments,
    short_help="Print the completion script of a shell.",
    epilog="""\
\b
Examples:
  arkwright completion bash > ~/.local/share/bash-completion/completions/arkwright
  arkwright completion zsh > ~/.zfunc/_arkwright      # with ~/.zfunc in $fpath
  arkwright completion fish > ~/.config/fish/completions/arkwright.fish
""",
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from arkwright.cli.main import program

    found = get_completion_class(shell)
    assert found is not None
    made = found(program, {}, "arkwright", _VARIABLE)
    click.echo(made.source_template % made.source_vars())
