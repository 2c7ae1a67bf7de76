//! Jinja templates of models and of task definitions: programs that strangers wrote.
//!
//! [`Sandbox`] is the only place that runs them. It bounds their source, their steps (minijinja's fuel), and the depth and size
//! of every value ([`program`] says how), on a thread with its own stack. The bounds do not depend on the machine, so
//! neither does the text; only the regular expressions of tasks are bounded by time. Bounds grow with the context: a longer
//! conversation may take more steps.

mod limit;
mod measure;
mod methods;
mod program;

use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use crate::panics;
pub(crate) use limit::Limit;
use measure::{KnownLists, Size};
use program::Program;

/// The stack of the thread that renders: for [`Limit::WORDS`] operators in a row, in a build without optimization.
const STACK: usize = 128 << 20;
/// The fuel of a template without a context: a unit is an instruction, or 64 bytes.
const BASE_FUEL: u64 = 500_000;
/// Further fuel for each part of the context; a message has three, and takes some hundreds of instructions.
const FUEL_PER_PART: u64 = 500;

/// The reason why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The template goes past a limit.
    #[error("{0}")]
    Limit(Limit),
    /// The template is wrong, or refuses its context.
    #[error("{0}")]
    Template(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Limit::of(&error).map_or(Failure::Template(error), Failure::Limit)
    }
}

/// An environment whose templates are bounded.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Takes the filters, functions and settings that its templates need.
    pub(crate) environment: Environment<'static>,
    syntax: SyntaxConfig,
}

impl Sandbox {
    /// Creates a sandbox with Python's methods.
    pub(crate) fn new(syntax: SyntaxConfig) -> Sandbox {
        let mut environment = Environment::new();
        methods::add(&mut environment);
        Sandbox { environment, syntax }
    }

    /// Compiles a template.
    pub(crate) fn check(&self, template: &str) -> Result<(), Failure> {
        on_own_stack(|| Ok(Program::template(template, &self.syntax).map(drop)?))
    }

    /// Renders a template.
    pub(crate) fn render(&self, template: &str, context: Value) -> Result<String, Failure> {
        on_own_stack(move || {
            let program = Program::template(template, &self.syntax)?;
            let environment = self.prepared(&context);
            let mut text = String::new();
            run(&environment, &program, context, &mut text)?;
            if text.len() as u64 > Limit::TEXT {
                return Err(Failure::Limit(Limit::Text));
            }
            Ok(text)
        })
    }

    /// Evaluates an expression.
    pub(crate) fn evaluate(&self, expression: &str, context: Value) -> Result<Json, Failure> {
        on_own_stack(move || {
            let program = Program::expression(expression)?;
            let environment = self.prepared(&context);
            let value = run(&environment, &program, context, &mut String::new())?;
            if value.is_undefined() {
                return Err(Error::from(ErrorKind::UndefinedError).into());
            }
            Size::of(&value).map_err(Failure::Limit)?;
            let json = serde_json::to_value(value);
            json.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()).into())
        })
    }

    /// The environment for one context, with the fuel that it may take.
    fn prepared(&self, context: &Value) -> Environment<'static> {
        let (known, size) = KnownLists::of(context);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_FUEL + FUEL_PER_PART * size.parts + size.text));
        measure::add_checks(&mut environment, known);
        environment
    }
}

fn run<'env>(
    environment: &'env Environment<'env>,
    program: &Program<'env>,
    context: Value,
    text: &mut String,
) -> Result<Value, Error> {
    let mut output = make_string_output(text);
    let Program { instructions, blocks } = program;
    let (value, _) = eval(environment, instructions, context, blocks, &mut output, AutoEscape::None)?;
    Ok(value.unwrap_or_default())
}

/// Runs `work` on a thread with a stack of a known size. A panic of the engine becomes an error.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || panics::caught(work));
        let result = thread.map_err(|_| Failure::Limit(Limit::Memory))?.join();
        result.ok().and_then(Result::ok).unwrap_or(Err(Failure::Limit(Limit::Panic)))
    })
}

#[cfg(test)]
mod tests;
