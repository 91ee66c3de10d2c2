"""Instructions that only change the image config: ENV, LABEL, USER, CMD and the like."""

from __future__ import annotations

from arkwright.frontends.dockerfile import syntax, values
from arkwright.frontends.dockerfile.buildargs import NOT_IN_ENVIRONMENT
from arkwright.frontends.dockerfile.lint_stage import odd_port, shell_form
from arkwright.frontends.dockerfile.state import StageState, Step
from arkwright.frontends.dockerfile.syntax import CommandLine
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.oci.config import Healthcheck


def convert_env(step: Step, instruction: syntax.Env) -> None:
    """Set variables; all values see the environment before the instruction."""
    pairs = [_pair(step, pair) for pair in instruction.pairs]
    for name, value in pairs:
        step.state.set_env(name, value)
    step.record("ENV " + " ".join(f"{name}={value}" for name, value in pairs))


def convert_label(step: Step, instruction: syntax.LabelSet) -> None:
    pairs = [_pair(step, pair) for pair in instruction.pairs]
    step.state.extend("labels", dict(pairs))
    step.record("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))


def _pair(step: Step, pair: syntax.KeyValue) -> tuple[str, str]:
    name, value = step.expand(pair.key), step.expand(pair.value)
    if not name.text:
        kind = step.instruction.name
        raise step.fail("dockerfile-syntax", f"names of {kind} can not be blank", pair.key.span)
    return name.text, value.text


def convert_arg(step: Step, instruction: syntax.Arg) -> None:
    """Declare arguments: the user's value, else the default, else the global value."""
    shown: list[str] = []
    for item in instruction.items:
        name = item.name.text
        value = _value_of(step, name, item.default)
        step.build.used_args.add(name)
        step.state.args.pop(name, None)
        step.state.args[name] = value
        if value is not None and name not in NOT_IN_ENVIRONMENT:
            step.state.assign(name, value)
        shown.append(name if value is None else f"{name}={value}")
    step.record("ARG " + " ".join(shown))


def _value_of(step: Step, name: str, default: Token | None) -> str | None:
    given = step.build.request.build_args.get(name)
    if given is not None:
        return given
    if default is not None:
        return step.expand(default).text
    return step.build.args.get(name)


def convert_user(step: Step, instruction: syntax.User) -> None:
    user = step.expand(instruction.user).text
    step.state.configure(user=user)
    step.record(f"USER {user}")


def convert_expose(step: Step, instruction: syntax.Expose) -> None:
    ports: list[str] = []
    for token in instruction.ports:
        for word in step.expanded(token)[1]:
            for found in odd_port(word, token):
                step.build.warn(found)
            ports += values.parse_ports(Token(word, token.span))
    # Instruction order would make two spellings of one set differ.
    ports = list(dict.fromkeys(ports))
    step.state.extend("exposed_ports", {port: {} for port in ports})
    step.record(f"EXPOSE [{' '.join(ports)}]")


def convert_volume(step: Step, instruction: syntax.Volume) -> None:
    paths = [step.expand(path) for path in instruction.paths]
    for path in paths:
        if not path.text:
            raise step.fail("missing-argument", "a path of VOLUME can not be empty", path.span)
    texts = [path.text for path in paths]
    step.state.extend("volumes", {text: {} for text in texts})
    step.record(f"VOLUME [{' '.join(texts)}]")


def _check_form(step: Step, command: CommandLine) -> None:
    if not step.state.config.shell and (found := shell_form(step.instruction.name, command)) is not None:
        step.build.warn(found)


def convert_cmd(step: Step, instruction: syntax.Cmd) -> None:
    _check_form(step, instruction.command)
    words = with_shell(step.state, instruction.command)
    step.state.configure(cmd=words, args_escaped=True)
    step.state.cmd_given = True
    step.record(f"CMD {values.go_quote_list(words)}")


def convert_entrypoint(step: Step, instruction: syntax.Entrypoint) -> None:
    """Set the entrypoint; a CMD that was inherited goes, one of this stage stays."""
    _check_form(step, instruction.command)
    words = with_shell(step.state, instruction.command)
    step.state.configure(entrypoint=words or None)
    if not step.state.cmd_given:
        step.state.configure(cmd=None)
    step.record(f"ENTRYPOINT {values.go_quote_list(words)}")


def convert_shell(step: Step, instruction: syntax.Shell) -> None:
    words = tuple(word.text for word in instruction.words)
    step.state.configure(shell=words)
    step.record(f"SHELL [{' '.join(words)}]")


def convert_stop_signal(step: Step, instruction: syntax.StopSignal) -> None:
    signal = step.expand(instruction.signal)
    values.check_signal(signal)
    step.state.configure(stop_signal=signal.text)
    step.record(f"STOPSIGNAL {signal.text}")


def convert_healthcheck(step: Step, instruction: syntax.Healthcheck) -> None:
    command = instruction.command
    test: tuple[str, ...] = ("NONE",)
    if command is not None:
        test = ("CMD-SHELL" if command.shell else "CMD", *command.arguments)
    check = Healthcheck(
        test=test,
        interval=instruction.interval,
        timeout=instruction.timeout,
        start_period=instruction.start_period,
        start_interval=instruction.start_interval,
        retries=instruction.retries,
    )
    step.state.configure(healthcheck=check)
    times = " ".join(
        f"{name}:{values.format_duration(value)}"
        for name, value in (
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        )
    )
    step.record(f"HEALTHCHECK {{Test:[{' '.join(test)}] {times} Retries:{check.retries}}}")


def convert_maintainer(step: Step, instruction: syntax.Maintainer) -> None:
    step.state.author = instruction.maintainer.text
    step.record(f"MAINTAINER {instruction.maintainer.text}")


def convert_onbuild(step: Step, instruction: syntax.Onbuild) -> None:
    """Keep the trigger for images that are built on this one."""
    step.state.triggers.append(instruction.expression)


def with_shell(state: StageState, command: CommandLine, script: str | None = None) -> tuple[str, ...]:
    """The argument list: the exec form as it is, else the SHELL with the text (or `script`)."""
    if not command.shell:
        return command.arguments
    shell = state.config.shell or _default_shell(state.platform.os)
    return (*shell, " ".join(command.arguments) if script is None else script)


def _default_shell(os_name: str) -> tuple[str, ...]:
    return ("cmd", "/S", "/C") if os_name == "windows" else ("/bin/sh", "-c")
