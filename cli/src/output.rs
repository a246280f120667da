//! What people and programs see: plain lines when piped, color and progress on a terminal, JSON when asked for.
//!
//! Results go to standard output, everything else to standard error. A reader that goes away (`celesta … | head`) ends
//! the command quietly.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Good news.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Bad news.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Neither yet.
pub(crate) const PENDING: Style = AnsiColor::Yellow.on_default();
/// Names that stand out.
pub(crate) const STRONG: Style = Style::new().bold();
/// What may be overlooked.
pub(crate) const DIM: Style = Style::new().dimmed();

/// When to use color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// Sets up printing for this process.
    pub(crate) fn new(json: bool, color: Color) -> Self {
        let choice = match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::AlwaysAnsi,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        Self {
            json,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Whether the result is to be JSON.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Whether somebody watches: progress bars make sense.
    pub(crate) const fn is_live(self) -> bool {
        self.terminal && !self.json
    }

    /// One line of the result, for people; nothing when JSON was asked for.
    ///
    /// # Errors
    /// When standard output cannot be written; silent when its reader has gone.
    pub(crate) fn line(self, text: impl Display) -> Result<(), Failure> {
        if self.json {
            Ok(())
        } else {
            Self::raw(format_args!("{text}\n"))
        }
    }

    /// One JSON document or line, when JSON was asked for.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            Self::raw(format_args!("{}\n", serde_json::to_string(value)?))
        } else {
            Ok(())
        }
    }

    /// A result in either form.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn either(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            self.json(value)
        } else {
            self.line(text())
        }
    }

    /// Text to standard output in any mode.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn raw(text: impl Display) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        let written = write!(stdout, "{text}").and_then(|()| stdout.flush());
        written.map_err(|error| write_failure(&error))
    }

    /// Bytes to standard output in any mode.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| write_failure(&error))
    }

    /// A remark beside the result: to standard error, not with `--json`.
    pub(crate) fn note(self, text: impl Display) {
        if !self.json {
            Self::remark(text);
        }
    }

    /// A line to standard error in any mode. Nobody reading it is no failure.
    pub(crate) fn remark(text: impl Display) {
        writeln!(anstream::stderr(), "{text}").ok();
    }

    /// Tells why the command failed.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.message.is_empty() && failure.problem.is_none() {
            return;
        }
        if self.json {
            let document = failure.problem.as_deref().map_or_else(
                || serde_json::json!({ "error": { "message": failure.message, "hint": failure.hint, "exit": failure.exit.code() } }),
                |problem| serde_json::json!({ "error": problem }),
            );
            Self::remark(document);
            return;
        }
        Self::remark(format_args!("{BAD}error{BAD:#}: {}", failure.message));
        if let Some(problem) = &failure.problem {
            for line in problem.detail_lines() {
                Self::remark(format_args!("  {line}"));
            }
        }
        if let Some(hint) = &failure.hint {
            Self::remark(format_args!("  {DIM}={DIM:#} {STRONG}help{STRONG:#}: {hint}"));
        }
    }

    /// A bar for a transfer of `total` bytes; invisible unless somebody watches.
    pub(crate) fn bytes_bar(self, total: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), self.target());
        bar.with_style(style("{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}"))
    }

    /// A bar for `total` of anything, after a fixed `prefix`.
    pub(crate) fn count_bar(self, total: u64, prefix: impl Into<String>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), self.target());
        bar.with_style(style("{prefix:18} {bar:32} {pos}/{len} {msg}"))
            .with_prefix(prefix.into())
    }

    /// A spinner with a message.
    pub(crate) fn spinner(self, message: impl Into<String>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.target());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.with_style(style("{spinner} {msg} {elapsed}"))
            .with_message(message.into())
    }

    /// Where bars are drawn.
    pub(crate) fn target(self) -> ProgressDrawTarget {
        if self.is_live() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━╸─")
}

fn write_failure(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::silent(Exit::Done);
    }
    Failure::internal(format!("cannot write to standard output: {error}"))
}

/// `text` in `style`.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Columns of left-aligned cells, each as wide as its widest; the last is not padded. Cells may hold color.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (at, cell) in row.iter().enumerate().take(widths.len()) {
            widths[at] = widths[at].max(visible_width(cell));
        }
    }
    let mut text = String::new();
    let head: Vec<String> = header.iter().map(|cell| paint(DIM, cell)).collect();
    for (number, row) in std::iter::once(&head).chain(rows).enumerate() {
        if number > 0 {
            text.push('\n');
        }
        for (at, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < row.len() {
                let width = widths.get(at).copied().unwrap_or_default();
                text.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(visible_width(cell)) + 2,
                ));
            }
        }
    }
    text
}

/// How many characters of `text` are seen: without escape sequences.
pub(crate) fn visible_width(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// `text` cut to `most` characters, with a mark where something is missing. One line.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let line = text.replace(['\n', '\r'], " ");
    if line.chars().count() <= most {
        return line;
    }
    let mut cut: String = line.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// A duration as people say it: `350 ms`, `4.2 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`.
pub(crate) fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    let seconds = time.as_secs();
    match seconds {
        _ if millis < 1_000 => format!("{millis} ms"),
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A number of bytes as people say it.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_under_color() {
        let rows = vec![
            vec![paint(GOOD, "a"), "b".to_owned()],
            vec!["longer".to_owned(), "c".to_owned()],
        ];
        let plain = anstream::adapter::strip_str(&table(&["x", "y"], &rows)).to_string();
        assert_eq!(plain, "x       y\na       b\nlonger  c");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let said = |millis| duration(Duration::from_millis(millis));
        assert_eq!(
            [said(5), said(4_200), said(200_000), said(7_500_000)],
            ["5 ms", "4.2 s", "3 m 20 s", "2 h 5 m"]
        );
    }

    #[test]
    fn long_text_is_cut_to_one_line() {
        assert_eq!(shorten("ab\ncdef", 5), "ab c…");
        assert_eq!(shorten("ab", 5), "ab");
    }
}
