// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask bench`: what a bio costs, in instructions.
//!
//! The emulator runs with `-icount shift=0,sleep=off`, which makes a nanosecond of the guest one
//! instruction. A module of the selftests submits bios to null_blk and takes the time of each.

use crate::{
    build::{self, Flavour},
    env::Env,
    qemu, ui,
};
use anyhow::{bail, Context, Result};
use std::time::Duration;

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

/// Runs the rows with `only` in their names, and those that they are compared with.
pub fn run(env: &Env, only: &str) -> Result<()> {
    if !names().iter().any(|name| name.contains(only)) {
        bail!(
            "no row has {only} in its name; there are: {}",
            names().join(", ")
        );
    }
    // The first is what the others are compared with.
    let wanted = |(n, name): &(usize, String)| *n == 0 || name.contains(only);
    let wanted = names().into_iter().enumerate().filter(wanted).count();
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
    let base = rows.first().context("no rows")?.median;
    println!(
        "\n{:<42} {:>8} {:>8} {:>8}",
        "instructions per bio", "median", "mean", "over"
    );
    for row in &rows {
        let over = row.median - base;
        println!(
            "{:<42} {:>8} {:>8} {:>+8}",
            row.name, row.median, row.mean, over
        );
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
        assert_eq!(names.len(), 15);
        assert!(names.contains(&"Rust: passes".into()) && names.contains(&"dm-linear".into()));
    }
}
