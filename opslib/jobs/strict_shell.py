"""Define the code that makes a failed shell command fail its cell; a strict run executes it first."""

STRICT_SHELL = """
def _ops_strict_shell():
    import subprocess, sys
    from IPython.utils.text import LSString, SList
    shell = get_ipython()
    def ended(_ops_command, depth):
        line = shell.var_expand(_ops_command, depth=depth + 1)
        status = subprocess.run(["bash", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, \
stderr=subprocess.PIPE, text=True, errors="replace")
        shell.user_ns["_exit_code"] = status.returncode
        return status
    def complain(_ops_command, status):
        if status.returncode:
            raise RuntimeError(f"the shell command {_ops_command!r} ended with status {status.returncode}")
    def system(_ops_command):
        status = ended(_ops_command, 1)
        print(status.stdout, end="")
        print(status.stderr, end="", file=sys.stderr)
        complain(_ops_command, status)
    def getoutput(_ops_command, split=True, depth=0):
        status = ended(_ops_command, depth + 1)
        print(status.stderr, end="", file=sys.stderr)
        complain(_ops_command, status)
        return SList(status.stdout.splitlines()) if split else LSString(status.stdout)
    shell.system, shell.getoutput = system, getoutput
    for name, options in (("bash", "set -eo pipefail"), ("sh", "set -e")):
        plain = shell.find_cell_magic(name)
        if plain:
            shell.register_magic_function(lambda line, cell, plain=plain, options=options: plain(line, options + \
"\\n" + cell), "cell", name)
_ops_strict_shell()
del _ops_strict_shell
"""
