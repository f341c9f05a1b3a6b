//! Steps with their times, on stderr: a spinner on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where steps are shown.
#[derive(Debug, Clone)]
pub struct Progress {
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    Terminal { bars: MultiProgress, colour: bool },
    Lines,
    Hidden,
}

impl Progress {
    /// On stderr, in the form that fits it.
    pub fn stderr() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let smart =
            io::stderr().is_terminal() && variable("TERM").is_none_or(|term| term != "dumb");
        let target = if smart {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            Target::Terminal {
                bars,
                colour: variable("NO_COLOR").is_none(),
            }
        } else {
            Target::Lines
        };
        Self { target }
    }

    /// Nowhere.
    pub fn hidden() -> Self {
        Self {
            target: Target::Hidden,
        }
    }

    /// Shows that something has begun. Dropped before [`Step::done`], it is shown as failed.
    pub fn step(&self, text: impl Into<String>) -> Step {
        let text = text.into();
        let bar = match &self.target {
            Target::Terminal { bars, .. } => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_style(
                    ProgressStyle::with_template(" {spinner} {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_spinner()),
                );
                bar.set_message(text.clone());
                bar.enable_steady_tick(Duration::from_millis(100));
                Some(bar)
            }
            Target::Lines => {
                line(&format!(" • {text} ..."));
                None
            }
            Target::Hidden => None,
        };
        Step {
            progress: self.clone(),
            text,
            start: Instant::now(),
            bar,
            finished: false,
        }
    }

    /// A line that belongs to no step.
    pub fn say(&self, text: &str) {
        match &self.target {
            Target::Terminal { bars, .. } => bars.suspend(|| line(text)),
            Target::Lines => line(text),
            Target::Hidden => {}
        }
    }

    fn end(&self, step: &Step, done: bool) {
        let seconds = step.start.elapsed().as_secs_f64();
        let mark = match (&self.target, done) {
            (Target::Terminal { colour: true, .. }, true) => "\x1b[32m✓\x1b[0m",
            (Target::Terminal { colour: true, .. }, false) => "\x1b[31m✗\x1b[0m",
            (_, true) => "✓",
            (_, false) => "✗",
        };
        if let Some(bar) = &step.bar {
            bar.finish_and_clear();
        }
        self.say(&format!(" {mark} {} ({seconds:.1} s)", step.text));
    }
}

fn line(text: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Something under way.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    text: String,
    start: Instant,
    bar: Option<ProgressBar>,
    finished: bool,
}

impl Step {
    /// Shows it as done.
    pub fn done(mut self) {
        self.finished = true;
        self.progress.end(&self, true);
    }

    /// Shows it as done, in other words.
    pub fn done_as(mut self, text: impl Into<String>) {
        self.text = text.into();
        self.done();
    }

    /// How far it is; only a terminal shows it.
    pub fn detail(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} {detail}", self.text));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.progress.end(self, false);
        }
    }
}
