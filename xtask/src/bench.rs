// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask bench`: what a bio costs, in instructions.
//!
//! The emulator runs with `-icount shift=0,sleep=off`, which makes a nanosecond of the guest one
//! instruction. A module of the selftests submits bios to null_blk and takes the time of each.

use crate::{
    build::{self, Flavour},
    env::Env,
    qemu, source, ui,
};
use anyhow::{bail, Context, Result};
use serde_json::json;
use std::{fs, iter, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

/// The rows that others are compared with.
const NOTHING: &str = "nothing attached anywhere";

/// The row of a kernel that has no filters.
const WITHOUT: &str = "CONFIG_BLK_FILTER=n";

const USER_MODE: &str = "user-mode Linux";

/// The guests that are run: part of the script, kernel, CPUs.
const PARTS: [(&str, Flavour, u32); 3] =
    [("without", Flavour::Without, 1), ("main", Flavour::Plain, 1), ("cpus", Flavour::Plain, 4)];

const SCRIPT: &str = include_str!("../guest/bench.sh");

/// A row of the table: instructions per bio.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    median: i64,
    mean: i64,
}

/// "row name: median mean", or "time name: median percentile"
fn row(line: &str) -> Option<Row> {
    let line = line.trim();
    let row = line.strip_prefix("row ").or_else(|| line.strip_prefix("time "))?;
    let (name, numbers) = row.rsplit_once(": ")?;
    let (median, mean) = numbers.split_once(' ')?;
    Some(Row { name: name.into(), median: median.parse().ok()?, mean: mean.parse().ok()? })
}

/// The names of the rows that a part of the script prints. Those with `$cpus` are in a loop.
fn names(part: &str) -> Vec<String> {
    let name = |line: &str| {
        let line = line.trim_start();
        if let Some(dm) = line.strip_prefix("dm ") {
            return Some(format!("dm-{}", dm.split(' ').next()?));
        }
        let starts = ["row ", "with ", "fio_row "].iter().any(|start| line.starts_with(start));
        // Arguments before the name may be in quotes, too; arguments after the name never are.
        let parts: Vec<&str> = line.split('"').filter(|_| starts).collect();
        Some(parts.get(parts.len().checked_sub(2)?)?.to_string())
    };
    let is_of_part = |name: &String| match part {
        "cpus" => name.contains("$cpus"),
        "without" => name.contains(WITHOUT),
        _ => !name.contains('$') && !name.contains(WITHOUT),
    };
    let names = SCRIPT.lines().filter_map(name).filter(is_of_part);
    let cpus = if part == "cpus" { &["1", "2", "4"][..] } else { &[""] };
    let all = |name: String| cpus.iter().map(move |cpus| name.replace("$cpus", cpus));
    names.flat_map(all).collect()
}

/// The cost of the same job in a kernel without filters or, if that kernel did not run the job, with
/// nothing attached.
fn base(rows: &[Row], row: &Row) -> i64 {
    let (mut longest, mut median) = ("", 0);
    for end in [NOTHING, WITHOUT] {
        for other in rows {
            let job = other.name.strip_suffix(end);
            if let Some(job) = job.filter(|job| row.name.starts_with(job)) {
                if job.len() >= longest.len() {
                    (longest, median) = (job, other.median);
                }
            }
        }
    }
    median
}

/// The lines for times, as multiples of the grace period that was measured beside them.
fn times(lines: &[String]) -> Vec<(String, f64, f64)> {
    let mut grace = 1.0;
    let mut times = Vec::new();
    for row in lines.iter().filter_map(|line| row(line)) {
        if row.name.starts_with("grace period") {
            grace = row.median as f64;
        }
        times.push((row.name, row.median as f64 / grace, row.mean as f64 / grace));
    }
    times
}

/// Bars on a logarithmic scale.
fn plot(rows: &[Row], kernel: &str) -> String {
    let height = 24;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">Instructions per bio, {kernel}, \
         logarithmic</text>\n",
        (rows.len() as i32 + 2) * height
    );
    for (n, row) in rows.iter().enumerate() {
        let y = (n as i32 + 2) * height - 8;
        // From 1,000 to 20,000 instructions.
        let share = ((row.median.max(1000) as f64) / 1000.0).ln() / 20f64.ln();
        let width = 2.0 + share.min(1.0) * 380.0;
        let name = row.name.replace('&', "&amp;").replace('<', "&lt;");
        svg += &format!(
            "<text x=\"10\" y=\"{y}\">{name}</text>\
             <rect x=\"320\" y=\"{}\" width=\"{width:.0}\" height=\"14\" fill=\"#4a7ab5\"/>\
             <text x=\"{:.0}\" y=\"{y}\">{} ({:+})</text>\n",
            y - 12,
            328.0 + width,
            row.median,
            row.median - base(rows, row)
        );
    }
    svg + "</svg>\n"
}

#[derive(clap::Args)]
pub struct Options {
    /// Only the rows with this in their name.
    #[arg(long, value_name = "ROW", default_value = "")]
    only: String,
    /// Write the table to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a plot to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Runs a part of the script; returns its rows and its lines with other figures.
fn part(
    env: &Env,
    (name, flavour, cpus): (&str, Flavour, u32),
    only: &str,
) -> Result<(Vec<Row>, Vec<String>)> {
    let kernel = build::kernel(env, flavour)?;
    let script = format!("PART={name} ONLY='{only}'\n{SCRIPT}");
    let mut guest = qemu::Guest::new(&kernel, script);
    guest.share = Some(build::selftests(env, flavour, &kernel)?);
    guest.icount = true;
    guest.cpus = cpus;
    guest.cmdline = "nokaslr randomize_kstack_offset=off".into();
    guest.timeout = Duration::from_secs(1800);
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    let outcome = ui::step(&format!("the bench, part {name}"), |_| {
        qemu::run(env, &guest, |line| match line.split(' ').next() {
            Some("row") => rows.extend(row(line)),
            Some("time" | "bytes") => lines.push(line.trim().to_string()),
            _ => qemu::print(line),
        })
    })?;
    outcome.check()?;
    // One more: the calibration.
    let is_wanted = |name: &&String| name.ends_with(NOTHING) || name.contains(only);
    let wanted = names(name).iter().filter(is_wanted).count();
    if rows.len() != wanted + 1 {
        bail!("{} of {} rows came", rows.len(), wanted + 1);
    }
    let calibration = rows.remove(0);
    println!("{}: {}", calibration.name, calibration.median);
    if !(2000..=2010).contains(&calibration.median) {
        bail!("a nanosecond of this guest is no instruction");
    }
    Ok((rows, lines))
}

/// A second opinion: pairs of runs in user-mode Linux, natively. Name, and each pair's ratio.
fn user_mode(env: &Env) -> Result<Vec<(String, Vec<f64>)>> {
    let (linux, modules) = build::uml_bench(env)?;
    let script = modules.join("init");
    fs::write(&script, include_str!("../guest/umlbench.sh"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let out = ui::step("the bench, in user mode", |step| {
        let mut command = env.tool_in(&env.cache, "timeout", &[]);
        command
            .arg("300")
            .arg(linux)
            .args(["mem=512M", "rootfstype=hostfs", "rw", "con=null", "quiet"])
            .args(["null_blk.irqmode=0", "null_blk.gb=1"])
            .arg(format!("init={}", script.display()))
            .args(["--", &modules.display().to_string()]);
        ui::run_logged(&mut command, &env.log("umlbench-run"), step)?;
        Ok(fs::read_to_string(modules.join("out"))?)
    })?;
    if !out.trim_end().ends_with("done") {
        bail!("in user mode: {out}");
    }
    let mut pairs: Vec<(String, Vec<f64>)> = Vec::new();
    for line in out.lines().filter_map(|line| line.strip_prefix("pair ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, without, with] = words[..] else {
            bail!("in user mode: {line}");
        };
        let ratio = with.parse::<f64>()? / without.parse::<f64>()?;
        match pairs.iter_mut().find(|(other, _)| other == name) {
            Some((_, ratios)) => ratios.push(ratio),
            None => pairs.push((name.into(), vec![ratio])),
        }
    }
    for (_, ratios) in &mut pairs {
        ratios.sort_by(f64::total_cmp);
    }
    Ok(pairs)
}

/// Prints a table, unless it has no rows.
fn print(title: &str, columns: &str, rows: impl Iterator<Item = (String, Vec<String>)>) {
    let head = columns.split(' ').map(str::to_string).collect();
    let mut rows = rows.peekable();
    if rows.peek().is_some() {
        println!();
        for (name, cells) in iter::once((title.to_string(), head)).chain(rows) {
            let cells: String = cells.iter().map(|cell| format!(" {cell:>8}")).collect();
            println!("{name:<46}{cells}");
        }
    }
}

/// Runs the rows with `only` in their names, and those that they are compared with.
pub fn run(env: &Env, options: &Options) -> Result<i32> {
    let only = options.only.as_str();
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for this in PARTS {
        if names(this.0).iter().any(|name| name.contains(only)) {
            let (more_rows, more_lines) = part(env, this, only)?;
            rows.extend(more_rows);
            lines.extend(more_lines);
        }
    }
    let in_user_mode = USER_MODE.contains(only);
    if rows.is_empty() && !in_user_mode {
        let all: Vec<String> = PARTS.iter().flat_map(|(name, ..)| names(name)).collect();
        let all = all.join(", ");
        bail!("no row has {only} in its name; there are: {all}, {USER_MODE}");
    }
    let times = times(&lines);
    let mut figures = Vec::new();
    for line in lines.iter().filter(|line| line.starts_with("bytes ")) {
        let (name, bytes) = line.rsplit_once(": ").context("no figure")?;
        figures.push((name, bytes.parse::<i64>()?));
    }
    if only.is_empty() {
        let size = |flavour| build::text_size(env, flavour);
        let bytes = size(Flavour::Plain)? - size(Flavour::Without)?;
        figures.push(("bytes of text and constants in vmlinux", bytes));
    }

    let over = |row: &Row| row.median - base(&rows, row);
    let table = rows.iter().map(|row| {
        let over = format!("{:+}", over(row));
        let cells = vec![row.median.to_string(), row.mean.to_string(), over];
        (row.name.clone(), cells)
    });
    print("instructions per bio", "median mean over", table);
    let table = times.iter().map(|(name, median, p99)| {
        let cells = [median, p99].map(|time| format!("{time:.2}"));
        (name.clone(), cells.to_vec())
    });
    print("in grace periods", "median p99", table);
    if !figures.is_empty() {
        println!();
    }
    for (name, bytes) in &figures {
        println!("{name:<46} {bytes:>8}");
    }
    let mut pairs = Vec::new();
    if in_user_mode {
        pairs = user_mode(env)?;
    }
    let table = pairs.iter().map(|(name, all): &(String, Vec<f64>)| {
        let cells = [all[all.len() / 2], all[0], all[all.len() - 1]];
        (name.clone(), cells.map(|ratio| format!("{ratio:.3}")).to_vec())
    });
    let title = format!("{USER_MODE}, time relative to no filter");
    print(&title, "median least most", table);

    let version = source::version(&env.linux())?;
    if let Some(path) = &options.json {
        let row = |row: &Row| {
            json!({
                "name": row.name, "median": row.median, "mean": row.mean, "over": over(row),
            })
        };
        let time = |(name, median, p99): &(String, f64, f64)| json!({ "name": name, "median": median, "p99": p99 });
        let all = json!({
            "kernel": version, "unit": "instructions",
            "rows": rows.iter().map(row).collect::<Vec<_>>(),
            "grace_periods": times.iter().map(time).collect::<Vec<_>>(),
            "bytes": figures, "user_mode": pairs,
        });
        fs::write(path, format!("{all:#}\n"))?;
    }
    if let Some(path) = &options.plot {
        fs::write(path, plot(&rows, &format!("Linux {version}")))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let parsed = row("row test filter in C, passes: 1437 1501\n").unwrap();
        assert_eq!((parsed.median, parsed.mean), (1437, 1501));
        assert_eq!(parsed.name, "test filter in C, passes");
        assert_eq!(row("FAILED: no null_blk"), None);
        assert_eq!(names("main").len(), 25);
        assert_eq!(names("without").len(), 2);
        assert_eq!(names("cpus").len(), 9);
        let nothing = |name: &&String| name.ends_with(NOTHING);
        assert_eq!(names("main").iter().filter(nothing).count(), 3);
        assert!(names("main").contains(&"blkdelay, 0 ms".into()));
        assert!(names("main").contains(&"dm-linear".into()));
    }

    #[test]
    fn what_is_compared() {
        let row = |name: &str, median| Row { name: name.into(), median, mean: 0 };
        let mut rows = vec![
            row(NOTHING, 10),
            row("w: nothing attached anywhere", 20),
            row("1 CPU: nothing attached anywhere", 30),
        ];
        assert_eq!(base(&rows, &row("C: passes", 0)), 10);
        assert_eq!(base(&rows, &row("w: x", 0)), 20);
        rows.push(row("CONFIG_BLK_FILTER=n", 9));
        rows.push(row("w: CONFIG_BLK_FILTER=n", 19));
        assert_eq!(base(&rows, &row("C: passes", 0)), 9);
        assert_eq!(base(&rows, &row(NOTHING, 0)), 9);
        assert_eq!(base(&rows, &row("w: x", 0)), 19);
        assert_eq!(base(&rows, &row("1 CPU: x", 0)), 30);
    }

    #[test]
    fn times_are_multiples() {
        let lines = ["time grace period: 100 200", "bytes of stack: 5", "time attach: 50 300"];
        let times = times(&lines.map(String::from));
        assert_eq!(times[1], ("attach".into(), 0.5, 3.0));
        assert_eq!(times.len(), 2);
    }
}
