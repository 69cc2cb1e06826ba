"""The command line: options in, one library call, results on stdout; progress and log on stderr."""

from __future__ import annotations

import io
import sys
import tempfile

import click

from onnx_distill import __version__
from onnx_distill.cli import commands
from onnx_distill.errors import InputError


class Commands(click.Group):
    """Prints an InputError as one line and exits with code 2, as click does for a wrong option."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as error:
            problem = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:  # of the temporary folder; what is written elsewhere says so itself
            problem = f"{error.strerror or error}, perhaps in {tempfile.gettempdir()}. Free space, or set TMPDIR to another folder."
        click.echo(f"error: {' '.join(problem.split())}", err=True)
        ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="onnx-distill")
def main():
    """An ONNX classifier teaches its own quantized copy. No PyTorch, no training code of yours.

    \b
    The way of a model, each step from the files of the one before:
      cut       teacher.onnx      -> logits.onnx        truncated at the logits
      quantize  logits.onnx       -> student.qdq.onnx   QDQ, calibrated
      train     student.qdq.onnx  -> run/               distilled, and exported
      export    trained.qdq.onnx  -> student.int8.onnx  integers, the teacher's tail put back
    or all of it: onnx-distill run teacher.onnx --data photos --preset imagenet -o run
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal's code page may lack the names in a model; they are then escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


for command in commands.ALL:
    main.add_command(command)
