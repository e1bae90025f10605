"""A model API that stands in for Anthropic, OpenAI and Google, so that the real agent CLIs run without an account.

It speaks the three wire formats that the CLIs speak (Anthropic Messages, OpenAI Responses, Gemini generateContent),
needs nothing but the standard library, and is told what to answer by directives in the latest prompt:

    hello [[words=5]]                    answer "word1 … word5", a chunk a word
    [[say="some text"]]                  answer this; repeated: several text blocks in one message
    [[echo]]                             answer the prompt
    [[info]]                             answer model, number of prompts in the conversation, number of tools
    [[bytes=20000000]]                   answer one chunk of so many letters
    [[think=3]]                          think three words at the start of each message
    [[tool=shell cmd="touch x"]]         call the CLI's shell tool, then answer
    [[tool=write path=/abs content=hi]]  call its file-writing tool, then answer
    [[call NAME {"key": "value"}]]       call any tool; JSON text instead of an object calls a free-form tool.
                                         Repeated: one after the other. The answer is then RESULTS and a JSON list of
                                         what the tools gave, unless say, words, echo or info asks for something else;
                                         the argument "RESULTS" is replaced by this answer. A tool of a client is found
                                         with the name of an MCP server before its name, too
    [[together]]                         all those calls in one message; [[together=3]]: the first three
    [[made="Result:"]]                   the first message of calls was made if the prompt has this text, with which a
                                         client that sends no results tells what the tools gave
    [[script FILE]]                      a JSON file: a list of turns, each a list of [name, input, namespace?]
    [[calls=3]]                          repeat the call of tool= three times, one after the other
    [[before="Let me look. "]]           text before the calls of each message
    [[error=429]]                        fail with this status; [[retry_after=2]] sends that header
    [[drop=2]]                           cut the connection after two chunks
    [[midstream=2]]                      report an error inside the stream after two chunks (without a number: none)
    [[times=2]]                          … only for the first two requests of this prompt, then answer
    [[delay=0.05]]                       seconds before each chunk
    [[hang=5]]                           seconds before the answer begins
    [[usage=100,20,30,10]]               input (20 of them cached) and output tokens (10 of them thinking)
    [[only=/v1/messages]]                … only for requests whose path has this text: those of one agent
    [[headers="a: 1, b: 2"]]             send these headers with the answer
    [[stop=max_tokens]]                  the stop reason, in Anthropic's words

Several may stand in a row, or several settings in one. A misspelt directive is answered with status 400.

Any base URL may be given a path `/as/NAME`: requests of that name are counted and kept by themselves.
`GET /_requests?as=NAME&contains=TEXT` gives what came in, oldest first; see `log.Entry`.
"""
