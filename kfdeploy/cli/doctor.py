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
        from kfdeploy.training.loop.devices import describe

        say(f"training   {describe()}")
    else:
        say('training   torch is not installed:  pip install "kfdeploy[train]"')
    for name in targets.TARGETS:
        state = targets.state(name)
        say(f"target     {name}: {state}")
    for extra, package in (("plot", "matplotlib"), ("tensorboard", "tensorboard"), ("remote", "s3fs")):
        if importlib.util.find_spec(package) is None:
            say(f'extra      {package} is not installed:  pip install "kfdeploy[{extra}]"')
    say(f"recipes    {', '.join(shipped()) or 'none are installed'}")
