import click


@click.command()
def simulate():
    pass
