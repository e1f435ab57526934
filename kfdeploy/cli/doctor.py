"""`kfdeploy doctor`: what is here, and what is missing."""

from kfdeploy.cli.console import say


def command() -> None:
    """Print versions, processors, runtimes, and the line that mends what is missing."""
    import importlib.util

    from kfdeploy import targets
    from kfdeploy.manifest import versions
    from kfdeploy.measuring.rounds import describe_machine
    from kfdeploy.training.recipe.recipe import shipped

    machine = describe_machine()
    version = versions("kfdeploy").get("kfdeploy", "from a folder")
    say(f"kfdeploy   {version}, Python {machine['python']}, {machine['os']}")
    say(
        f"processor  {machine['cpu']}, {machine['cores']} cores, {machine.get('memory_gb', '?')} GB memory, "
        f"load {machine['load'][0]:.2f}"
        if machine.get("load")
        else f"processor  {machine['cpu']}"
    )
    if importlib.util.find_spec("torch"):
        import torch

        from kfdeploy.training.loop.devices import cpu_has_bf16

        gpus = (
            [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else []
        )
        say(
            f"training   torch {torch.__version__.partition('+')[0]}; "
            f"cuda: {', '.join(gpus) or 'none that torch can use'}; "
            f"bf16 on the CPU: {'yes' if cpu_has_bf16() else 'no'}"
        )
    else:
        say('training   torch is not installed:  pip install "kfdeploy[train]"')
    for name in targets.TARGETS:
        state = targets.state(name)
        say(f"target     {name}: {state}")
    for extra, package in (("plot", "matplotlib"), ("tensorboard", "tensorboard"), ("remote", "s3fs")):
        if importlib.util.find_spec(package) is None:
            say(f'extra      {package} is not installed:  pip install "kfdeploy[{extra}]"')
    say(f"recipes    {', '.join(shipped()) or 'none are installed'}")
