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
use anyhow::{bail, Result};
use std::{fs, path::PathBuf, time::Duration};

/// The rows that others are compared with.
const NOTHING: &str = "nothing attached anywhere";

const SCRIPT: &str = include_str!("../guest/bench.sh");

/// A row of the table: instructions per bio.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    median: i64,
    mean: i64,
}

/// "row name: median mean"
fn row(line: &str) -> Option<Row> {
    let (name, numbers) = line.trim().strip_prefix("row ")?.rsplit_once(": ")?;
    let (median, mean) = numbers.split_once(' ')?;
    Some(Row {
        name: name.into(),
        median: median.parse().ok()?,
        mean: mean.parse().ok()?,
    })
}

/// The names of the rows that the script prints.
fn names() -> Vec<String> {
    let name = |line: &str| {
        if let Some(dm) = line.strip_prefix("dm ") {
            return Some(format!("dm-{}", dm.split(' ').next()?));
        }
        let starts = line.starts_with("row ") || line.starts_with("with ");
        Some(line.split('"').nth(1).filter(|_| starts)?.to_string())
    };
    SCRIPT.lines().filter_map(name).collect()
}

/// What a row is compared with: the row of the same job with nothing attached.
fn base(rows: &[Row], row: &Row) -> i64 {
    let job = |name: &str| {
        name.split_once(": nothing")
            .map_or("", |(job, _)| job)
            .to_string()
    };
    rows.iter()
        .filter(|base| base.name.ends_with(NOTHING))
        .filter(|base| row.name.starts_with(&job(&base.name)))
        .max_by_key(|base| job(&base.name).len())
        .map_or(0, |base| base.median)
}

/// Bars on a logarithmic scale.
fn plot(rows: &[Row], kernel: &str) -> String {
    let height = 24;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
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

pub struct Options {
    pub only: String,
    pub json: Option<PathBuf>,
    pub plot: Option<PathBuf>,
}

/// Runs the rows with `only` in their names, and those that they are compared with.
pub fn run(env: &Env, options: &Options) -> Result<()> {
    let only = options.only.as_str();
    if !names().iter().any(|name| name.contains(only)) {
        bail!(
            "no row has {only} in its name; there are: {}",
            names().join(", ")
        );
    }
    let wanted = |name: &String| name.ends_with(NOTHING) || name.contains(only);
    let wanted = names().into_iter().filter(wanted).count();
    let kernel = build::kernel(env, Flavour::Plain)?;
    let mut guest = qemu::Guest::new(&kernel, format!("ONLY='{only}'\n{SCRIPT}"));
    guest.share = Some(build::selftests(env, Flavour::Plain, &kernel)?);
    guest.icount = true;
    guest.cmdline = "nokaslr randomize_kstack_offset=off".into();
    guest.timeout = Duration::from_secs(1200);
    let mut rows = Vec::new();
    let outcome = ui::step("the bench", |_| {
        qemu::run(env, &guest, |line| match row(line) {
            Some(row) => rows.push(row),
            None => qemu::print(line),
        })
    })?;
    outcome.check()?;
    // One more: the calibration.
    if rows.len() != wanted + 1 {
        bail!("{} of {} rows came", rows.len(), wanted + 1);
    }

    let loops = rows.remove(0);
    println!("{}: {}", loops.name, loops.median);
    if !(2000..=2010).contains(&loops.median) {
        bail!("a nanosecond of this guest is no instruction");
    }
    println!(
        "\n{:<42} {:>8} {:>8} {:>8}",
        "instructions per bio", "median", "mean", "over"
    );
    for row in &rows {
        let over = row.median - base(&rows, row);
        println!(
            "{:<42} {:>8} {:>8} {:>+8}",
            row.name, row.median, row.mean, over
        );
    }
    let version = source::version(&env.linux())?;
    if let Some(path) = &options.json {
        let list: Vec<serde_json::Value> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "name": row.name, "median": row.median, "mean": row.mean,
                    "over": row.median - base(&rows, row),
                })
            })
            .collect();
        let all = serde_json::json!({ "kernel": version, "unit": "instructions", "rows": list });
        fs::write(path, format!("{all:#}\n"))?;
    }
    if let Some(path) = &options.plot {
        fs::write(path, plot(&rows, &format!("Linux {version}")))?;
    }
    Ok(())
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
        let names = names();
        assert_eq!(names.len(), 19);
        assert_eq!(names.iter().filter(|n| n.ends_with(NOTHING)).count(), 2);
        let row = |name: &str, median| Row {
            name: name.into(),
            median,
            mean: 0,
        };
        let rows = [row(NOTHING, 10), row("w: nothing attached anywhere", 20)];
        assert_eq!(base(&rows, &row("C: passes", 0)), 10);
        assert_eq!(base(&rows, &row("w: x", 0)), 20);
        assert!(names.contains(&"Rust: passes".into()) && names.contains(&"dm-linear".into()));
    }
}
