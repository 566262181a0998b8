"""The LangChain toolkit, for `create_agent(model, tools=toolkit.get_tools())`. Here we play the model."""

from langchain_core.messages import ToolCall

from sandbox_tools.adapters.langchain import SandboxToolkit


def main() -> None:
    with SandboxToolkit() as toolkit:
        tools = {tool.name: tool for tool in toolkit.get_tools()}

        call = ToolCall(name="run_code", args={"code": "2 ** 100"}, id="call_1", type="tool_call")
        message = tools["run_code"].invoke(call)
        print(message.status, message.content)

        mistake = ToolCall(name="run_code", args={"kode": "2 ** 100"}, id="call_2", type="tool_call")
        message = tools["run_code"].invoke(mistake)
        # The model reads what was wrong and can try again; the agent goes on.
        print(message.status, message.content)


if __name__ == "__main__":
    main()
