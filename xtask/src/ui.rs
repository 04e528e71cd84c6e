// SPDX-License-Identifier: GPL-2.0
//! What a person sees while something takes long.

use anyhow::{bail, Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs::{self, File},
    io::{IsTerminal, Read, Seek, SeekFrom},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

static TIMES: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// One step in progress.
pub struct Step {
    bar: Option<ProgressBar>,
    name: String,
    since: Instant,
}

/// Runs a step: says that it starts, shows that it lives, says how long it took.
pub fn step<T>(name: &str, run: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
    let terminal = std::io::stderr().is_terminal();
    let bar = || {
        let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}");
        let bar = ProgressBar::new_spinner().with_style(style.expect("a constant"));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.with_prefix(name.to_string())
    };
    let step = Step { bar: terminal.then(bar), name: name.to_string(), since: Instant::now() };
    if !terminal {
        eprintln!("==> {name}");
    }
    let result = run(&step);
    if let Some(bar) = &step.bar {
        bar.finish_and_clear();
    }
    let took = step.since.elapsed();
    let end = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("==> {name}: {end} in {:.1} s", took.as_secs_f64());
    TIMES.lock().expect("no panics under it").push((name.to_string(), took));
    result
}

/// Prints what `step()` measured.
pub fn print_times() {
    eprintln!("\nTime of each stage:");
    for (name, took) in TIMES.lock().expect("no panics under it").iter() {
        eprintln!("{:>8.1} s  {name}", took.as_secs_f64());
    }
}

/// The end of a file, whatever its length.
fn tail(path: &Path, lines: usize) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        // A shorter file is read from its start, because there the seek fails.
        let _ = file.seek(SeekFrom::End(-16384));
        let _ = file.read_to_end(&mut text);
    }
    last_lines(&String::from_utf8_lossy(&text), lines)
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Runs a command with its output in `log`; its last line is the progress that is shown.
pub fn run_logged(command: &mut Command, log: &Path, step: &Step) -> Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let mut said = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        sleep(Duration::from_millis(100));
        match &step.bar {
            Some(bar) => bar.set_message(tail(log, 1)),
            None if said.elapsed() > Duration::from_secs(60) => {
                said = Instant::now();
                let minutes = step.since.elapsed().as_secs() / 60;
                eprintln!("    {}: {minutes} min: {}", step.name, tail(log, 1).trim());
            }
            None => {}
        }
    };
    if !status.success() {
        bail!("{} failed ({status}); the end of {}:\n{}", step.name, log.display(), tail(log, 30));
    }
    Ok(())
}

/// Runs a short command; its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !out.status.success() {
        let (program, args) = (command.get_program(), command.get_args().collect::<Vec<_>>());
        let errors = String::from_utf8_lossy(&out.stderr);
        bail!("{program:?} {args:?} failed ({}):\n{}", out.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
