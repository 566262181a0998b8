"""Call the tools yourself. Without SEACLOUD_API_KEY the sandbox runs, isolated, on this machine."""

import anyio

from sandbox_tools import Toolset


async def main() -> None:
    async with Toolset.open() as toolset:
        print(f"The tools run in {toolset.where}.")

        await toolset.call("write_file", {"path": "numbers.txt", "content": "3\n4\n5\n"})
        total = await toolset.call("run_code", {"code": "sum(int(line) for line in open('numbers.txt'))"})
        print(total.text)

        failed = await toolset.call("exec", {"command": "ls /nowhere"})
        print(failed.text)
        # The command failed, the tool did not: the model reads the exit code and stderr.
        assert not failed.is_error


if __name__ == "__main__":
    anyio.run(main)
