//! `llmc generate`.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::context::{self, Context};
use super::engine_args;
use super::numbers::{TOKENS, number};
use super::sampling_args::SamplingArguments;
use crate::cli::terminal;
use crate::engine::{
    ChatTemplate, FinishReason, Generation, LanguageModel, Limits, Message, Sampler, Sequence, Tokenizer,
};
use crate::error::{Error, Result};

/// Let a model continue a text, or answer
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc generate model-w4a16 --chat -p 'What is the capital of France?'
  llmc generate model.gguf -p 'Once upon a time' -n 100 --temperature 0.8 --top-p 0.95 --seed 7")]
pub(crate) struct Arguments {
    /// The model: .safetensors, a folder, .gguf, or a hub id
    model: String,
    /// The text to continue; - reads it from standard input
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Put the prompt as a user's question, by the model's chat template
    #[arg(long)]
    chat: bool,
    /// A system message before the question
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Tokens to generate at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, value_parser = number(0..=TOKENS))]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// End before this text appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

/// Generates.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    context::stop_in_silence();
    let sampler = Sampler::new(arguments.sampling.sampling())?;
    let prompt = arguments.prompt()?;
    let model = arguments.engine.engine().load(&arguments.model, context)?;
    let tokenizer = Tokenizer::open(model.checkpoint())?;
    tokenizer.check_fits(model.vocabulary())?;
    let (tokens, ends) = arguments.tokens(&prompt, &model, &tokenizer)?;
    let limits = Limits {
        max_tokens: arguments.max_tokens,
        context: model.context_limit(),
        ends,
        stops: arguments.stop.clone(),
    };
    let mut sequence = Sequence::new(&model)?;
    let prompt_tokens = tokens.len();
    let forward = |tokens: &[u32]| sequence.forward(tokens);
    let generation = Generation::new(forward, &tokenizer, tokens, sampler, limits)?;
    Answer::stream(generation, prompt_tokens, context)?.report(context)
}

impl Arguments {
    fn prompt(&self) -> Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::io("standard input", e))?;
        String::from_utf8(bytes).map_err(|e| {
            let found = format!("other bytes at offset {}", e.utf8_error().valid_up_to());
            Error::malformed(
                "standard input",
                "UTF-8 text",
                found,
                "convert it to UTF-8 first (`iconv -t UTF-8`)",
            )
        })
    }

    /// The prompt's tokens, and those that end the answer.
    fn tokens(
        &self,
        prompt: &str,
        model: &LanguageModel,
        tokenizer: &Tokenizer,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        if !self.chat {
            return Ok((tokenizer.encode(prompt, true)?, tokenizer.eos().to_vec()));
        }
        let template = ChatTemplate::open(model.checkpoint())?;
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
        let text = template.render(&messages, true)?;
        let ends = template.ends(tokenizer).into_iter().chain(tokenizer.eos().iter().copied());
        Ok((tokenizer.encode(&text, false)?, ends.collect()))
    }
}

/// The generated text, and its speed.
pub(crate) struct Answer {
    text: String,
    prompt_tokens: usize,
    tokens: usize,
    /// Until the first token, if it came to that.
    prompt_seconds: Option<f64>,
    /// After it.
    seconds: f64,
    /// `None` where it was interrupted, or nobody reads it any more.
    finish: Option<FinishReason>,
}

impl Answer {
    /// Returns true if nobody reads the text any more.
    pub(crate) fn is_unread(&self, context: &Context) -> bool {
        self.finish.is_none() && !context.is_interrupted()
    }

    /// Generates to the end, printing text as it becomes certain.
    pub(crate) fn stream(
        mut generation: Generation<impl FnMut(&[u32]) -> Result<Vec<f32>>>,
        prompt_tokens: usize,
        context: &Context,
    ) -> Result<Answer> {
        let start = Instant::now();
        let (mut text, mut first) = (String::new(), None);
        while !context.is_interrupted() {
            let Some(piece) = generation.next_piece()? else { break };
            first.get_or_insert_with(Instant::now);
            text += &piece;
            if !show(&piece, context)? {
                break;
            }
        }
        let (end, tokens) = (Instant::now(), generation.generated());
        let prompt_seconds = first.map(|first| (first - start).as_secs_f64());
        let seconds = first.map_or(0.0, |first| (end - first).as_secs_f64());
        let (rest, finish) = generation.finish()?;
        show(&format!("{rest}\n"), context)?;
        text += &rest;
        Ok(Answer { text, prompt_tokens, tokens, prompt_seconds, seconds, finish })
    }

    /// The generated text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The figures, and an error where the answer was cut short by the user.
    fn report(&self, context: &Context) -> Result<()> {
        if context.prints_json() {
            context.print(String::new, || self.json())?;
        } else if !context.is_quiet() {
            terminal::tell(&self.figures());
        }
        match self.finish {
            None if context.is_interrupted() => {
                Err(Error::Interrupted { hint: "the text ends where you stopped it".into() })
            }
            _ => Ok(()),
        }
    }

    /// Tokens a second after the first; the one that ended the text was computed too.
    fn speed(&self) -> Option<f64> {
        let steps = self.tokens + usize::from(self.finish == Some(FinishReason::End));
        (steps > 1).then(|| (steps - 1) as f64 / self.seconds)
    }

    fn figures(&self) -> String {
        let Answer { prompt_tokens, tokens, .. } = self;
        let rate =
            |speed: Option<f64>| speed.map_or(String::new(), |speed| format!(" ({speed:.1} tokens/s)"));
        let prompt_rate = rate(self.prompt_seconds.map(|seconds| *prompt_tokens as f64 / seconds));
        let rate = rate(self.speed());
        let finish = match self.finish {
            Some(FinishReason::End) if *tokens == 0 => {
                "; the model ended at once: --chat asks as its template does"
            }
            Some(FinishReason::End) => "",
            Some(FinishReason::Stop) => "; stopped at a stop text",
            Some(FinishReason::Length) => "; stopped at --max-tokens",
            Some(FinishReason::Context) => "; stopped because the model's context is full",
            None => "; cut short",
        };
        format!("prompt: {prompt_tokens} tokens{prompt_rate}; generated: {tokens} tokens{rate}{finish}")
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let finish = match self.finish {
            Some(FinishReason::End) => "end",
            Some(FinishReason::Stop) => "stop",
            Some(FinishReason::Length) => "length",
            Some(FinishReason::Context) => "context",
            None => "interrupted",
        };
        json!({
            "text": self.text,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "prompt_seconds": self.prompt_seconds,
            "seconds": self.seconds,
            "tokens_per_second": self.speed(),
            "finish_reason": finish,
        })
    }
}

/// Prints a piece at once; false where nobody reads it any more. With --json the whole is printed at the end.
fn show(piece: &str, context: &Context) -> Result<bool> {
    if context.prints_json() || piece.is_empty() {
        return Ok(true);
    }
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).map_err(|e| Error::io("stdout", e)),
    }
}
