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
use serde_json::{json, Map, Value};
use std::{fs, path::PathBuf};

/// The rows that others are compared with.
const NOTHING: &str = "nothing attached anywhere";

/// The row of a kernel that has no filters.
const WITHOUT: &str = "CONFIG_BLK_FILTER=n";

/// The guests that are run: part of the script, kernel, CPUs.
const PARTS: [(&str, Flavour, u32); 3] =
    [("without", Flavour::Without, 1), ("main", Flavour::Plain, 1), ("cpus", Flavour::Plain, 4)];

const SCRIPT: &str = include_str!("../guest/bench.sh");

/// A row of a table: its name and its figures.
type Row = (String, Vec<f64>);

/// The rows of a kind: `output` has a line "KIND NAME: FIGURE…" with `count` figures for each.
fn rows(kind: &str, count: usize, output: &str) -> Result<Vec<Row>> {
    let row = |line: &str| {
        let (name, figures) = line.rsplit_once(": ")?;
        let figures = figures.split(' ').map(|figure| figure.parse().ok());
        let figures = figures.collect::<Option<Vec<_>>>().filter(|all| all.len() == count)?;
        Some((name.to_string(), figures))
    };
    let lines = output.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    lines.map(|line| row(line).with_context(|| format!("no figures of {kind}: {line}"))).collect()
}

/// The names of the rows that a part of the script prints.
fn names(part: &str) -> Vec<String> {
    let functions = ["row ", "with ", "fio_row ", "dm "];
    let is_row = |line: &&str| functions.iter().any(|function| line.starts_with(function));
    let is_of_part = |name: &&str| match part {
        "cpus" => name.contains("$cpus"),
        "without" => name.contains(WITHOUT),
        _ => !name.contains('$') && !name.contains(WITHOUT),
    };
    // Arguments before the name may be in quotes, too; arguments after the name never are.
    let names = SCRIPT.lines().map(str::trim_start).filter(is_row);
    let names = names.filter_map(|line| line.rsplit('"').nth(1));
    // A name with `$cpus` is in a loop of the script; three times the same name counts once.
    let all = |name: &str| ["1", "2", "4"].map(|cpus| name.replace("$cpus", cpus));
    let mut names: Vec<String> = names.filter(is_of_part).flat_map(all).collect();
    names.dedup();
    names
}

/// The cost of the same job in a kernel without filters or, if that kernel did not run the job, with
/// nothing attached.
fn base(rows: &[Row], name: &str) -> f64 {
    let candidate = |(other, figures): &Row| {
        let job = other.strip_suffix(WITHOUT).or(other.strip_suffix(NOTHING))?;
        let rank = (job.len(), other.ends_with(WITHOUT));
        name.starts_with(job).then_some((rank, figures[0]))
    };
    let best = rows.iter().filter_map(candidate).max_by_key(|(rank, _)| *rank);
    best.map_or(0.0, |(_, median)| median)
}

/// Times as multiples of the grace period that was measured beside them.
fn in_grace_periods(mut times: Vec<Row>) -> Vec<Row> {
    let mut grace = 1.0;
    for (name, figures) in &mut times {
        if name.starts_with("grace period") {
            grace = figures[0];
        }
        figures.iter_mut().for_each(|figure| *figure /= grace);
    }
    times
}

#[derive(clap::Args)]
pub struct Options {
    /// Only the rows with this in their name.
    #[arg(long, value_name = "ROW", default_value = "")]
    only: String,
    /// Write the table to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs a part of the script; returns its lines with figures.
fn part(env: &Env, (name, flavour, cpus): (&str, Flavour, u32), only: &str) -> Result<String> {
    let kernel = build::kernel(env, flavour)?;
    let guest = qemu::Guest {
        share: Some(build::selftests(env, flavour, &kernel)?),
        icount: true,
        cpus,
        cmdline: "nokaslr randomize_kstack_offset=off".into(),
        timeout: 1800,
        ..qemu::Guest::new(&kernel, format!("PART={name} ONLY='{only}'\n{SCRIPT}"))
    };
    let mut output = String::new();
    ui::step(&format!("the bench, part {name}"), |_| {
        qemu::run(env, &guest, |line| match line.split(' ').next() {
            Some("calibration" | "row" | "time" | "bytes") => output += line,
            _ => qemu::print(line),
        })
    })?
    .check()?;
    let is_wanted = |name: &&String| name.ends_with(NOTHING) || name.contains(only);
    let wanted = names(name).iter().filter(is_wanted).count();
    let came = rows("row", 2, &output)?.len();
    if came != wanted {
        bail!("{came} of {wanted} rows came");
    }
    let calibration = rows("calibration", 2, &output)?;
    let (name, figures) = calibration.first().context("no calibration came")?;
    println!("calibration, {name}: {}", figures[0]);
    if !(2000.0..=2010.0).contains(&figures[0]) {
        bail!("a nanosecond of this guest is no instruction");
    }
    Ok(output)
}

/// Prints a table, unless it has no rows; returns the table as JSON.
fn table(title: &str, columns: &str, digits: usize, rows: &[Row]) -> Value {
    let columns: Vec<&str> = columns.split(' ').collect();
    if !rows.is_empty() {
        let heads: String = columns.iter().map(|column| format!(" {column:>8}")).collect();
        println!("\n{title:<46}{heads}");
    }
    let row = |(name, figures): &Row| {
        let mut object = Map::from_iter([("name".into(), json!(name))]);
        print!("{name:<46}");
        for (column, figure) in columns.iter().zip(figures) {
            match *column {
                "over" => print!(" {figure:>+8.digits$}"),
                _ => print!(" {figure:>8.digits$}"),
            }
            object.insert(column.to_string(), json!(figure));
        }
        println!();
        Value::Object(object)
    };
    rows.iter().map(row).collect()
}

/// Runs the rows with `only` in their names, and those that they are compared with.
pub fn run(env: &Env, options: &Options) -> Result<i32> {
    let only = options.only.as_str();
    let mut output = String::new();
    for this in PARTS {
        if names(this.0).iter().any(|name| name.contains(only)) {
            output += &part(env, this, only)?;
        }
    }
    if output.is_empty() {
        let all = PARTS.map(|(name, ..)| names(name)).concat().join(", ");
        bail!("no row has {only} in its name; there are: {all}");
    }
    let mut costs = rows("row", 2, &output)?;
    let bases: Vec<f64> = costs.iter().map(|(name, _)| base(&costs, name)).collect();
    for ((_, figures), base) in costs.iter_mut().zip(bases) {
        figures.push(figures[0] - base);
    }
    let times = in_grace_periods(rows("time", 2, &output)?);
    let mut bytes = rows("bytes", 1, &output)?;
    if only.is_empty() {
        let size = |flavour| build::text_size(env, flavour);
        let more = size(Flavour::Plain)? - size(Flavour::Without)?;
        bytes.push(("text and constants in vmlinux".into(), vec![more as f64]));
    }
    let version = source::version(&env.linux())?;
    let all = json!({
        "kernel": version, "unit": "instructions",
        "rows": table("instructions per bio", "median mean over", 0, &costs),
        "grace_periods": table("in grace periods", "median p99", 2, &times),
        "bytes": table("memory", "bytes", 0, &bytes),
    });
    if let Some(path) = &options.json {
        fs::write(path, format!("{all:#}\n"))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_names() {
        let parsed = rows("row", 2, "row C: passes: 1437 1501\nbytes stack: 5\n").unwrap();
        assert_eq!(parsed, [("C: passes".into(), vec![1437.0, 1501.0])]);
        assert!(rows("row", 2, "row C: passes: 1437\n").is_err());
        assert_eq!(["main", "without", "cpus"].map(|part| names(part).len()), [25, 2, 9]);
        let main = names("main");
        assert_eq!(main.iter().filter(|name| name.ends_with(NOTHING)).count(), 3);
        assert!(main.contains(&"blkdelay, 0 ms".into()) && main.contains(&"dm-linear".into()));
    }

    #[test]
    fn what_is_compared() {
        let row = |(job, end, median)| (format!("{job}{end}"), vec![median]);
        let nothing = [("", NOTHING, 10.0), ("w: ", NOTHING, 20.0), ("1 CPU: ", NOTHING, 30.0)];
        let mut rows = nothing.map(row).to_vec();
        assert_eq!(["C: passes", "w: x"].map(|name| base(&rows, name)), [10.0, 20.0]);
        rows.extend([("", WITHOUT, 9.0), ("w: ", WITHOUT, 19.0)].map(row));
        let names = ["C: passes", NOTHING, "w: x", "1 CPU: x"];
        assert_eq!(names.map(|name| base(&rows, name)), [9.0, 9.0, 19.0, 30.0]);
    }

    #[test]
    fn times_are_multiples() {
        let times = rows("time", 2, "time grace period: 100 200\ntime attach: 50 300\n").unwrap();
        assert_eq!(in_grace_periods(times)[1], ("attach".into(), vec![0.5, 3.0]));
    }
}
