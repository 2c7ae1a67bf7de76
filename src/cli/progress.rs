//! Progress of the work in hand: a bar that fits the line of a terminal; elsewhere a line every half minute.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::style::ProgressTracker;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::terminal;
use crate::job::Phase;

/// Time between two lines where stderr is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(30);
/// Time between two drawings of a bar that does not move, so that its clock does.
const BETWEEN_DRAWINGS: Duration = Duration::from_millis(500);
/// Characters of a bar.
const BAR: usize = 10;
/// A shorter time says nothing about the rest.
const SHORTEST: Duration = Duration::from_secs(1);
/// Two readings of the start of one clock differ by less.
const CLOCK_JITTER: Duration = Duration::from_millis(2);

/// The way to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Display {
    /// A bar that is drawn again and again.
    Bar,
    /// A line from time to time.
    Lines,
    /// Nothing.
    Nothing,
}

/// Shows a phase of `total` units, until the bar is finished or dropped.
pub(crate) fn start(phase: Phase, total: u64, display: Display) -> ProgressBar {
    let target = match display {
        Display::Bar => ProgressDrawTarget::stderr(),
        Display::Lines | Display::Nothing => ProgressDrawTarget::hidden(),
    };
    let pace = Pace::default();
    let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style(phase, &pace));
    terminal::occupy(&bar, phase);
    match display {
        Display::Bar => bar.enable_steady_tick(BETWEEN_DRAWINGS),
        Display::Lines => tell_from_time_to_time(&bar, phase, pace),
        Display::Nothing => {}
    }
    bar
}

/// One line of at most 60 characters, and a message that takes what is left of the terminal's width.
fn style(phase: Phase, pace: &Pace) -> ProgressStyle {
    let template = format!("{} {{done}}{{left}} {{wide_msg}}", label(phase));
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let done = move |state: &ProgressState, line: &mut dyn Write| {
        let _ = line.write_str(&done(phase, state.pos(), state.len().unwrap_or(0)));
    };
    style.with_key("done", done).with_key("left", pace.clone())
}

/// The position and a bar, `3/30 blocks [=>        ] `; nothing before the length is known.
fn done(phase: Phase, position: u64, length: u64) -> String {
    if length == 0 {
        return String::new();
    }
    let filled = (u128::from(position.min(length)) * BAR as u128 / u128::from(length)) as usize;
    let head = if filled < BAR { ">" } else { "" };
    let bar = "=".repeat(filled) + head;
    format!("{} [{bar:BAR$}] ", count(phase, position, length, "/"))
}

/// Prints a line every half minute, as long as there is a bar.
fn tell_from_time_to_time(bar: &ProgressBar, phase: Phase, pace: Pace) {
    let bar = bar.downgrade();
    let tell = move || {
        loop {
            std::thread::sleep(BETWEEN_LINES);
            let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) else { return };
            bar.tick(); // the pace follows
            let (done, of) = (bar.position(), bar.length().unwrap_or(0));
            drop(bar);
            terminal::tell(&line(phase, done, of, &pace));
        }
    };
    // Without a thread there are no lines, and the work goes on.
    let _ = std::thread::Builder::new().name("progress".to_owned()).spawn(tell);
}

fn line(phase: Phase, done: u64, of: u64, pace: &Pace) -> String {
    let count = if of == 0 { String::new() } else { count(phase, done, of, " of ") + ", " };
    format!("{}: {count}{}", label(phase), pace.text())
}

fn label(phase: Phase) -> &'static str {
    match phase {
        Phase::Writing => "writing",
        Phase::Blocks => "calibrating",
        Phase::Measuring => "measuring",
        Phase::OwnText => "own text",
        Phase::Verifying => "verifying",
        Phase::Scoring => "scoring",
        Phase::Embedding => "embedding",
        Phase::Checking => "checking",
        Phase::Answering => "asking",
    }
}

fn count(phase: Phase, done: u64, of: u64, between: &str) -> String {
    let unit = match phase {
        Phase::Writing | Phase::Verifying => {
            return format!("{}{between}{}", HumanBytes(done), HumanBytes(of));
        }
        Phase::Blocks | Phase::Measuring => "blocks",
        Phase::OwnText => "tokens",
        Phase::Scoring => "windows",
        Phase::Embedding => "texts",
        Phase::Checking => "checks",
        Phase::Answering => "questions",
    };
    format!("{done}{between}{of} {unit}")
}

/// The speed of a bar since it began or went on from an earlier run.
#[derive(Debug, Clone, Default)]
struct Pace(Arc<Mutex<Measured>>);

/// Positions and the times at which they were seen.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// The start of the bar's clock.
    started: Option<Instant>,
    /// The beginning of the work.
    first: (Duration, u64),
    /// The last step.
    last: (Duration, u64),
    /// Now.
    elapsed: Duration,
    length: u64,
}

impl Measured {
    /// Takes a new observation. Where the clock was started anew, an earlier run has done the work before; where the position
    /// went back, other work began.
    fn observe(&mut self, started: Instant, elapsed: Duration, position: u64, length: u64) {
        let is_new = self.started.is_none_or(|known| started > known + CLOCK_JITTER);
        if is_new || position < self.last.1 {
            self.started = Some(started);
            self.first = (elapsed, position);
            self.last = self.first;
        }
        if position > self.last.1 {
            self.last = (elapsed, position);
        }
        (self.elapsed, self.length) = (elapsed, length);
    }

    /// Estimates the time that is left from the steps so far; `None` before the first, and where it was wrong.
    fn left(&self) -> Option<Duration> {
        let (time, steps) = (self.last.0.saturating_sub(self.first.0), self.last.1 - self.first.1);
        if steps == 0 || time < SHORTEST {
            return None;
        }
        let rest = time.as_secs_f64() / steps as f64 * self.length.saturating_sub(self.last.1) as f64;
        let left = rest - self.elapsed.saturating_sub(self.last.0).as_secs_f64();
        (left >= 1.0).then(|| Duration::from_secs_f64(left))
    }
}

impl Pace {
    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that is left; before that can be told, the time that has passed.
    fn text(&self) -> String {
        let measured = *self.measured();
        match measured.left() {
            Some(left) => format!("~{} left", rounded(left)),
            None => format!("{} so far", rounded(measured.elapsed)),
        }
    }
}

impl ProgressTracker for Pace {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, state: &ProgressState, _: Instant) {
        let elapsed = state.elapsed();
        let started = Instant::now().checked_sub(elapsed).unwrap_or_else(Instant::now);
        self.measured().observe(started, elapsed, state.pos(), state.len().unwrap_or(0));
    }

    fn reset(&mut self, state: &ProgressState, now: Instant) {
        *self.measured() = Measured::default();
        self.tick(state, now);
    }

    fn write(&self, _: &ProgressState, line: &mut dyn Write) {
        let _ = line.write_str(&self.text());
    }
}

/// `42 s`, `3 min`, `1.5 h`.
fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The text after observations of (start of the clock, seconds since then, position) of a work of 30 steps.
    fn check(observations: &[(u64, u64, u64)], expected: &str) {
        let (pace, origin) = (Pace::default(), Instant::now());
        for &(started, time, position) in observations {
            pace.measured().observe(origin + seconds(started), seconds(time), position, 30);
        }
        assert_eq!(pace.text(), expected, "{observations:?}");
    }

    #[test]
    fn the_time_left_is_told_after_a_first_step() {
        check(&[], "0 s so far");
        check(&[(0, 0, 0), (0, 9, 0)], "9 s so far");
        check(&[(0, 0, 0), (0, 10, 1)], "~5 min left");
        // Between two steps the clock runs down; an estimate that was too short is not repeated.
        check(&[(0, 0, 0), (0, 10, 20), (0, 12, 20)], "~3 s left");
        check(&[(0, 0, 0), (0, 10, 28), (0, 30, 28)], "30 s so far");
        check(&[(0, 0, 0), (0, 120, 30)], "2 min so far");
        check(&[(0, 0, 0), (0, 3600, 5)], "~5.0 h left");
    }

    #[test]
    fn work_of_an_earlier_run_does_not_count() {
        check(&[(0, 0, 0), (3, 1, 20)], "1 s so far");
        check(&[(0, 0, 0), (3, 0, 20), (3, 8, 22)], "~32 s left");
        check(&[(0, 0, 0), (0, 50, 25), (0, 51, 0), (0, 61, 10)], "~20 s left");
    }

    #[test]
    fn lines_name_the_work_and_its_unit() {
        let pace = Pace::default();
        let started = Instant::now();
        pace.measured().observe(started, seconds(0), 0, 30);
        pace.measured().observe(started, seconds(30), 3, 30);
        assert_eq!(line(Phase::Blocks, 3, 30, &pace), "calibrating: 3 of 30 blocks, ~5 min left");
        assert_eq!(line(Phase::Writing, 1024, 4096, &pace), "writing: 1.00 KiB of 4.00 KiB, ~5 min left");
    }

    #[test]
    fn a_bar_is_as_full_as_the_work() {
        assert_eq!(done(Phase::Blocks, 0, 30), "0/30 blocks [>         ] ");
        assert_eq!(done(Phase::Blocks, 16, 30), "16/30 blocks [=====>    ] ");
        assert_eq!(done(Phase::Blocks, 30, 30), "30/30 blocks [==========] ");
        assert_eq!(done(Phase::Blocks, 0, 0), "");
        assert_eq!(line(Phase::Blocks, 0, 0, &Pace::default()), "calibrating: 0 s so far");
    }

    #[test]
    fn a_bar_fits_sixty_columns() {
        let longest = [
            (Phase::Verifying, 123_400_000_000, 234_500_000_000),
            (Phase::OwnText, 100_000, 131_072),
            (Phase::Answering, 12_000, 14_042),
            (Phase::Blocks, 100, 126),
        ];
        for (phase, position, length) in longest {
            let text = format!("{} {}~99 min left ", label(phase), done(phase, position, length));
            assert!(text.chars().count() <= 60, "{text:?}: {}", text.chars().count());
        }
    }
}
