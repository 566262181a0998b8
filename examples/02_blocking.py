"""The same from plain blocking code, and from threads: the calls share one sandbox."""

from concurrent.futures import ThreadPoolExecutor

from sandbox_tools import BlockingToolset


def main() -> None:
    with BlockingToolset.open() as toolset, ThreadPoolExecutor(3) as threads:

        def square(number: int) -> str:
            return toolset.call("exec", {"command": f"echo $(({number} * {number}))"}).text

        for text in threads.map(square, (1, 2, 3)):
            print(text)


if __name__ == "__main__":
    main()
