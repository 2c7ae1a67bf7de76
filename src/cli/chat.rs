//! `llmc chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use signal_hook::consts::SIGTERM;

use super::context::{self, Context};
use super::generate::Answer;
use super::numbers::{TOKENS, number};
use super::sampling_args::SamplingArguments;
use super::{engine_args, terminal};
use crate::engine::{ChatTemplate, Conversation, Sampler, Sampling, Tokenizer};
use crate::error::{Error, Result};

/// Talk with a model: what was said before is the context of the next answer
///
/// A line is a message. /clear forgets the conversation, /system TEXT sets the system message (and forgets it too), /help lists
/// these, /exit ends. Ctrl-C stops an answer, Ctrl-D ends. From a pipe, each line is a message, and answers go to stdout.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc chat model-w4a16
  llmc chat model-q4_k.gguf --system 'Answer in one sentence.' --temperature 0.7 --top-p 0.9")]
pub(crate) struct Arguments {
    /// The model: .safetensors, a folder, .gguf, or a hub id
    model: String,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens of an answer at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1024, value_parser = number(0..=TOKENS))]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

const HELP: &str = "/clear forgets the conversation; /system TEXT sets the system message; /exit ends";

/// A line that the user types.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Message(&'a str),
    Exit,
    Clear,
    System(&'a str),
    Help,
    Unknown(&'a str),
    Nothing,
}

impl Input<'_> {
    fn parse(line: &str) -> Input<'_> {
        let line = line.trim();
        if !line.starts_with('/') {
            return if line.is_empty() { Input::Nothing } else { Input::Message(line) };
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "/exit" | "/quit" | "/bye" => Input::Exit,
            "/clear" => Input::Clear,
            "/system" => Input::System(rest.trim()),
            "/help" | "/?" => Input::Help,
            _ => Input::Unknown(command),
        }
    }
}

/// Talks until the user ends it.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    context::stop_in_silence();
    Sampler::new(arguments.sampling.sampling())?; // an error before the model is loaded
    let model = arguments.engine.engine().load(&arguments.model, context)?;
    let tokenizer = Tokenizer::open(model.checkpoint())?;
    tokenizer.check_fits(model.vocabulary())?;
    let template = ChatTemplate::open(model.checkpoint())?;
    let mut conversation = Conversation::new(&model, &tokenizer, &template)?;
    conversation.set_system(arguments.system.as_deref().unwrap_or_default());
    end_on_sigterm()?;
    context.say(&format!("{HELP}; Ctrl-C stops an answer"));
    for turn in 0.. {
        let Some(line) = read_line(context)? else { break };
        match Input::parse(&line) {
            Input::Exit => break,
            Input::Nothing => {}
            Input::Help => terminal::tell(HELP),
            Input::Clear => conversation.clear(),
            Input::System(text) => {
                conversation.set_system(text);
                conversation.clear();
            }
            Input::Unknown(command) => terminal::tell(&format!("{command} is no command: {HELP}")),
            Input::Message(text) => {
                if !answer(text, turn, &mut conversation, arguments, context)? {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Ends the process on SIGTERM, at once: a conversation leaves nothing to finish.
fn end_on_sigterm() -> Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    let registered = signal_hook::flag::register_conditional_shutdown(SIGTERM, 143, always);
    registered.map(|_| ()).map_err(|e| Error::io("signal handler", e))
}

/// The next line; `None` at the end of the input.
fn read_line(context: &Context) -> Result<Option<String>> {
    if std::io::stdin().is_terminal() && !context.is_quiet() {
        let _ = write!(std::io::stderr(), "> ");
    }
    let mut line = Vec::new();
    let read = std::io::stdin().lock().read_until(b'\n', &mut line);
    match read.map_err(|e| Error::io("standard input", e))? {
        0 => Ok(None),
        _ => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
    }
}

/// Streams the answer to a message; false where nobody reads it any more. A message that the model cannot take is forgotten in a
/// terminal, and an error elsewhere. Each turn has random numbers of its own.
fn answer(
    text: &str,
    turn: u64,
    conversation: &mut Conversation,
    arguments: &Arguments,
    context: &Context,
) -> Result<bool> {
    context.resume();
    let sampling = arguments.sampling.sampling();
    let sampler = Sampler::new(Sampling { seed: sampling.seed.wrapping_add(turn), ..sampling })?;
    let begun = conversation.ask(text, sampler, arguments.max_tokens);
    match begun.and_then(|(generation, prompt_tokens)| Answer::stream(generation, prompt_tokens, context)) {
        Ok(answer) if answer.is_unread(context) => return Ok(false),
        Ok(answer) => {
            match answer.text() {
                "" => conversation.retract(),
                text => conversation.answered(text),
            }
            if context.prints_json() {
                context.print(String::new, || answer.json())?;
            }
        }
        Err(error) if !std::io::stdin().is_terminal() => return Err(error),
        Err(error) => {
            conversation.retract();
            terminal::tell(&format!("error: {error}"));
            terminal::tell("hint: /clear begins a new conversation");
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let check = |line: &str, expected: Input| assert_eq!(Input::parse(line), expected, "{line:?}");
        check("hello there\n", Input::Message("hello there"));
        check(" \n", Input::Nothing);
        check("/exit\n", Input::Exit);
        check("/clear\r\n", Input::Clear);
        check("/system  Be brief. \n", Input::System("Be brief."));
        check("/system", Input::System(""));
        check("/sytem x", Input::Unknown("/sytem"));
        check("what is 1/2?", Input::Message("what is 1/2?"));
    }
}
