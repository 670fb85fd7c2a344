"""Results: one line a check, what was expected and seen where one failed, totals at the end."""

import contextlib
import subprocess
import sys
import traceback


class Failed(Exception):
    """A check that did not hold."""


def expect(condition, message):
    """Fails the check unless the condition holds."""
    if not condition:
        raise Failed(message)


def equal(what, seen, wanted):
    """Fails the check unless both are equal."""
    if seen != wanted:
        raise Failed(f"{what}: expected {wanted!r}, seen {seen!r}")


def _line(command):
    return " ".join(map(str, command))


class Report:
    """Counts and prints. `evidence` is called after a failure and returns lines to print."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.figures = []
        self.prefix = ""
        self.evidence = lambda: []

    @contextlib.contextmanager
    def check(self, name):
        """One check: its body fails by `Failed`, or by any other error."""
        name = f"{self.prefix}{name}"
        try:
            yield
        except Failed as failure:
            self._fail(name, str(failure))
        except subprocess.CalledProcessError as error:
            output = (error.stderr or error.stdout or "").strip()
            self._fail(name, f"{_line(error.cmd)}: exit {error.returncode}: {output}")
        except subprocess.TimeoutExpired as error:
            self._fail(name, f"{_line(error.cmd)}: no end within {error.timeout} s")
        except OSError as error:
            self._fail(name, f"{type(error).__name__}: {error}")
        except Exception:  # a defect of the check itself must not hide the others' results
            self._fail(name, traceback.format_exc())
        else:
            self.passed += 1
            print(f"ok    {name}", flush=True)

    def tell(self, figure):
        """Prints a figure that was measured, now and before the totals."""
        self.figures.append(f"{self.prefix}{figure}")
        print(f"      {self.figures[-1]}", flush=True)

    def _fail(self, name, why):
        self.failed.append(name)
        print(f"FAIL  {name}", flush=True)
        for line in [*why.splitlines(), *self.evidence()]:
            print(f"        {line}", flush=True)

    def close(self):
        """Prints figures and totals; returns the exit status."""
        for figure in self.figures:
            print(f"      {figure}")
        for name in self.failed:
            print(f"failed: {name}")
        print(f"{self.passed} passed, {len(self.failed)} failed")
        sys.stdout.flush()
        return 1 if self.failed or not self.passed else 0
