import click
@click.command()
def history(): pass
@click.command()
def audit(): pass
