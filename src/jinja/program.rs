//! A template as instructions of minijinja's machine, with checks between them.
//!
//! minijinja charges fuel for what it makes, but neither for the depth of values nor for visiting values that contain a part
//! many times: a list that holds the last list twice grows without making anything new. It has no hook for lists, `+` or `~`.
//! So a call of [`CHECK`] follows each instruction that loads or makes a value, or of [`FINISH`] where it may be a list that is
//! computed while it is read. What an instruction is given has then been measured and paid for.

use std::collections::BTreeMap;

use minijinja::Error;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, parse, parse_expr, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::limit::Limit;

/// The test that checks a value. No template can name it, because of the dot. A filter would be charged for the value.
pub(super) const CHECK: &str = ".check";
/// The filter that finishes a list, and checks it.
pub(super) const FINISH: &str = ".finish";
/// The filter that checks a value on its way into a namespace.
pub(super) const CHECK_STORED: &str = ".check_stored";
/// The index of filters and tests that the machine does not cache.
const UNCACHED: u8 = !0;

/// A compiled template or expression.
pub(super) struct Program<'source> {
    pub(super) instructions: Instructions<'source>,
    pub(super) blocks: BTreeMap<&'source str, Instructions<'source>>,
}

impl<'source> Program<'source> {
    /// Compiles a template.
    pub(super) fn template(source: &'source str, syntax: &SyntaxConfig) -> Result<Self, Error> {
        check_source(source, false, syntax)?;
        let tree = parse(source, "template", syntax.clone())?;
        let mut code = CodeGenerator::new("template", source);
        code.compile_stmt(&tree);
        Program::new(code)
    }

    /// Compiles an expression.
    pub(super) fn expression(source: &'source str) -> Result<Self, Error> {
        check_source(source, true, &SyntaxConfig::default())?;
        let tree = parse_expr(source)?;
        let mut code = CodeGenerator::new("expression", source);
        code.compile_expr(&tree);
        Program::new(code)
    }

    fn new(code: CodeGenerator<'source>) -> Result<Self, Error> {
        let (instructions, blocks) = code.finish();
        let blocks = blocks.iter().map(|(name, block)| Ok((*name, with_checks(block)?)));
        Ok(Program {
            instructions: with_checks(&instructions)?,
            blocks: blocks.collect::<Result<_, Error>>()?,
        })
    }
}

/// Refuses what would take too much of the stack to compile.
fn check_source(source: &str, expression: bool, syntax: &SyntaxConfig) -> Result<(), Limit> {
    if source.len() > Limit::SOURCE {
        return Err(Limit::Source);
    }
    let (mut words, mut branches) = (0, 0);
    for (token, _) in tokenize(source, expression, syntax.clone()).map_while(Result::ok) {
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => words = 0,
            Token::Ident("elif") => branches += 1,
            _ => words += 1,
        }
        if words > Limit::WORDS {
            return Err(Limit::Expression);
        }
        if branches > Limit::BRANCHES {
            return Err(Limit::Branches);
        }
    }
    Ok(())
}

/// Copies instructions, with the checks, and moves the targets of jumps.
fn with_checks<'source>(plain: &Instructions<'source>) -> Result<Instructions<'source>, Error> {
    let all: Vec<_> = (0..).map_while(|index| plain.get(index)).collect();
    let steps: Vec<_> = (0..all.len())
        .map(|index| step(all[index], all.get(index + 1).copied()))
        .collect::<Result<_, _>>()?;
    let places = places(&steps);
    let mut checked = Instructions::new(plain.name(), plain.source());
    for (index, step) in (0..).zip(steps) {
        for mut instruction in step {
            move_target(&mut instruction, &places);
            match (plain.get_span(index), plain.get_line(index)) {
                (Some(span), _) => checked.add_with_span(instruction, span),
                (None, Some(line)) => checked.add_with_line(instruction, line as u16),
                (None, None) => checked.add(instruction),
            };
        }
    }
    Ok(checked)
}

/// The new index of each old one, and of the end.
fn places(steps: &[Vec<Instruction>]) -> Vec<u32> {
    let mut place = 0;
    let mut places = vec![place];
    for step in steps {
        place += step.len() as u32;
        places.push(place);
    }
    places
}

fn move_target(instruction: &mut Instruction, places: &[u32]) {
    match instruction {
        Instruction::Iterate(target)
        | Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::BuildMacro(_, target, _) => *target = places[*target as usize],
        _ => {}
    }
}

/// An instruction with its checks.
fn step<'source>(
    instruction: &Instruction<'source>,
    next: Option<&Instruction<'source>>,
) -> Result<Vec<Instruction<'source>>, Limit> {
    use Instruction::*;
    let filter = |name| ApplyFilter(name, Some(1), UNCACHED);
    let plain = instruction.clone();
    Ok(match instruction {
        // A field of a value is no operation on the whole value.
        Lookup(_) | GetAttr(_) if matches!(next, Some(GetAttr(_) | SetAttr(_) | PushLoop(_))) => vec![plain],
        Lookup(_) | GetAttr(_) | GetItem | StringConcat | EndCapture | BuildMap(_) | BuildList(_)
        | BuildTuple(_) => {
            vec![plain, DupTop, PerformTest(CHECK, Some(1), UNCACHED), DiscardTop]
        }
        Slice | Add | Mul => vec![plain, filter(FINISH)],
        ApplyFilter(_, Some(_), _)
        | CallFunction(_, Some(_))
        | CallMethod(_, Some(_))
        | CallObject(Some(_)) => {
            vec![plain, filter(FINISH)]
        }
        SetAttr(_) => vec![Swap, filter(CHECK_STORED), Swap, plain],
        ApplyFilter(..) | PerformTest(_, None, _) | CallFunction(..) | CallMethod(..) | CallObject(_) => {
            return Err(Limit::Feature);
        }
        LoadBlocks | Include(_) => return Err(Limit::Feature),
        _ => vec![plain],
    })
}
