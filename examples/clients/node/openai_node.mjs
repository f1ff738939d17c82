// openai for node: chat, stream, structured output by zod, a required call, the Responses API.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8101/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "unused",
});
const ask = { model: "default", max_tokens: 80, messages: [{ role: "user", content: "Ada is 36 years old." }] };
const Person = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(120) });

const chat = await client.chat.completions.create(ask);
console.log("chat:", chat.choices[0].message.content);

let text = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
console.log("stream:", text);

const parsed = await client.chat.completions.parse({ ...ask, response_format: zodResponseFormat(Person, "person") });
console.log("parsed:", parsed.choices[0].message.parsed);

const called = await client.chat.completions.parse({
  ...ask,
  tools: [zodFunction({ name: "note", description: "Note a person.", parameters: Person })],
  tool_choice: "required",
  parallel_tool_calls: false,
});
console.log("called:", called.choices[0].message.tool_calls[0].function.parsed_arguments);

const response = await client.responses.create({ model: "default", input: "Say hello.", max_output_tokens: 40 });
console.log("response:", response.output_text);
