// Vercel's AI SDK in its default way, createOpenAI()(model), which is the Responses API: text, stream, object, a tool.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8101/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "unused",
});
const model = openai("default");

const told = await generateText({ model, prompt: "Say hello.", maxOutputTokens: 40 });
console.log("text:", told.text);

let streamed = "";
for await (const part of streamText({ model, prompt: "Say hello.", maxOutputTokens: 40 }).textStream) streamed += part;
console.log("stream:", streamed);

const schema = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(120) });
const made = await generateObject({ model, schema, prompt: "Ada is 36 years old." });
console.log("object:", made.object);

const weather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.string().max(20) }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
});
const asked = await generateText({ model, tools: { weather }, toolChoice: "required", prompt: "The weather in Rome?" });
console.log("tool:", asked.toolResults[0].output);
