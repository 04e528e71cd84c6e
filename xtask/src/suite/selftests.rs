// SPDX-License-Identifier: GPL-2.0
//! The kernel selftests of `tools/testing/selftests/blkfilter`, in guests and with the compiler.

use super::{log_case, not_run, Options};
use crate::{
    build::{self, Build, Flavour},
    env::{names_in, Env},
    ktap::{self, Case},
    qemu, ui,
};
use anyhow::{bail, Result};
use std::{fs, path::Path, time::Instant};

const DIR: &str = "tools/testing/selftests/blkfilter";

/// The scripts of the selftests, as their Makefile lists them.
pub fn scripts(env: &Env) -> Result<Vec<String>> {
    let text = fs::read_to_string(env.repo.join(DIR).join("Makefile"))?;
    let name = |line: &str| Some(line.strip_prefix("TEST_PROGS += ")?.trim().to_string());
    Ok(text.lines().filter_map(name).collect())
}

/// The scripts that `xtask/FILE` names.
fn listed(env: &Env, file: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(env.repo.join("xtask").join(file))?;
    Ok(text.lines().map(str::to_string).collect())
}

/// Runs the scripts that `--only` asks for, else those that the file `list` names, else all.
pub fn run(
    env: &Env,
    flavour: Flavour,
    list: Option<&str>,
    options: &Options,
) -> Result<Vec<Case>> {
    let mut chosen = scripts(env)?;
    if let Some(pattern) = options.pattern() {
        chosen.retain(|script| script.contains(pattern));
        if chosen.is_empty() {
            bail!("no suite is named {pattern}, and no selftest has {pattern} in its name");
        }
    } else if let Some(list) = list {
        // `smoke` has to be quick, and KCSAN is slow, so `--full` does not make lists run for long.
        return in_guest(env, flavour, &listed(env, list)?, false, None);
    }
    in_guest(env, flavour, &chosen, options.full, None)
}

/// Runs `scripts` in one guest. `full` makes the scripts repeat their races for long; `mutant` is the
/// directory of a seeded bug.
pub fn in_guest(
    env: &Env,
    flavour: Flavour,
    scripts: &[String],
    full: bool,
    mutant: Option<&Path>,
) -> Result<Vec<Case>> {
    let kernel = build::kernel_with(env, flavour, mutant)?;
    let install = build::selftests(env, flavour, &kernel)?;
    // A debug kernel takes longer for everything, and a full run repeats what takes long.
    let is_slow = full || flavour != Flavour::Plain;
    let patience = if is_slow { " -o 2700" } else { "" };
    let rounds = if full { "BLKFILTER_ROUNDS=200 " } else { "" };
    let tests: String = scripts.iter().map(|script| format!(" -t blkfilter:{script}")).collect();
    let command = format!(
        "cp -r /mnt/share /tmp/selftests && cd /tmp/selftests && \
         echo first test line && {rounds}./run_kselftest.sh{patience}{tests}"
    );
    let mut guest = qemu::Guest::new(&kernel, command);
    guest.share = Some(install);
    guest.cpus = 4;
    guest.kmemleak = flavour == Flavour::Debug;
    // The guest gets a disk /dev/pmem0.
    guest.cmdline = "memmap=64M!1G".into();
    guest.timeout = if flavour == Flavour::Plain { 2700 } else { 5400 };
    guest.timeout *= if full { 3 } else { 1 };
    if mutant.is_some() {
        // An oops is how some bugs show themselves to the test. Other bugs hang the guest after
        // the check has failed.
        guest.cmdline += " sysctl.kernel.panic_on_oops=0";
        guest.timeout = 120;
    }
    let name = format!("selftests on the {} kernel", flavour.name());
    ui::step(&name, |_| {
        let since = Instant::now();
        let mut output = String::new();
        let outcome = qemu::run(env, &guest, |line| {
            if output.is_empty() {
                let took = since.elapsed().as_secs_f64();
                eprintln!("    boot to the first test line: {took:.1} s");
            } else {
                qemu::print(line);
            }
            output += line;
        });
        let mut cases = ktap::selftests(&output);
        // The checks that ran before the guest died count.
        if outcome.is_err() && !cases.is_empty() {
            let name = "the guest came to no good end";
            cases.push(Case::of_result(name, outcome.map(|_| ())));
            return Ok(cases);
        }
        let outcome = outcome?;
        if flavour == Flavour::Kcsan && !outcome.log.contains("kcsan: enabled") {
            bail!("KCSAN is not at work in this kernel");
        }
        cases.extend(not_run(scripts, &cases));
        let (ours, others): (Vec<_>, Vec<_>) =
            outcome.splats.iter().partition(|splat| is_ours(splat));
        cases.extend(ours.iter().map(|splat| log_case(splat)));
        if flavour == Flavour::Kcsan {
            eprintln!("    {} data races of code that is not ours", others.len());
            for splat in &others {
                eprintln!("      {}", splat.lines().next().unwrap_or_default());
            }
        }
        Ok(cases)
    })
}

/// Whether a report of the kernel log is about the series. KCSAN also reports races of the block
/// layer itself, which do not count. An upstream function counts if code of the series is inlined
/// into the function.
fn is_ours(splat: &str) -> bool {
    let head = splat.lines().next().unwrap_or_default();
    let ours = "filter blkf changetrack blkerror blkdelay";
    let inlined_into = "submit_bio_noacct bio_endio bio_clone bio_init bio_reset \
        bdev_set_nr_sectors bdev_free_inode bdev_evict_inode add_partition drop_partition \
        del_gendisk";
    let mut all = ours.split(' ').chain(inlined_into.split(' '));
    !head.contains("KCSAN:") || all.any(|name| head.contains(name))
}

/// Misuse of the Rust API, which must not compile against the kernel crate that was built.
pub fn compile_fail(env: &Env) -> Result<Vec<Case>> {
    build::kernel(env, Flavour::Plain)?;
    ui::step("misuse that must not compile", |_| {
        let dir = env.linux().join(DIR);
        let mut python = env.tool_in(&env.linux(), "python3", &[]);
        python.arg(dir.join("compile_fail.py")).arg(Build::of(env, Flavour::Plain).dir);
        let out = python.output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() {
            eprint!("{text}{}", String::from_utf8_lossy(&out.stderr));
        }
        let mut cases = ktap::program(&text);
        let snippets = names_in(&dir.join("compile_fail"))?.into_iter();
        let snippets = snippets.filter_map(|file| Some(file.strip_suffix(".rs")?.to_string()));
        let names: Vec<String> = snippets.filter(|name| name != "prelude").collect();
        cases.extend(not_run(&names, &cases));
        Ok(cases)
    })
}

/// Incremental backups on a machine that loses its power in the middle of writing.
pub fn power_cut(env: &Env) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, Flavour::Plain)?;
    let install = build::selftests(env, Flavour::Plain, &kernel)?;
    let disk = env.cache.join("guest/powercut.img");
    ui::step("a power cut during backups", |_| {
        fs::File::create(&disk)?.set_len(128 << 20)?;
        let mut output = String::new();
        for boot in 1..=2 {
            let script = include_str!("../../guest/powercut.sh");
            let mut guest = qemu::Guest::new(&kernel, format!("BOOT={boot}\n{script}"));
            guest.share = Some(install.clone());
            guest.disks.push((disk.clone(), true));
            guest.timeout = 180;
            let show = |line: &str| {
                qemu::print(line);
                output += line;
            };
            qemu::run(env, &guest, show)?.check()?;
        }
        fs::remove_file(&disk)?;
        Ok(ktap::program(&output))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Toolchain;

    #[test]
    fn every_script_is_in_the_makefile() {
        let env = Env::new(Toolchain::Host, None).unwrap();
        let is_script = |file: &String| {
            let name = file.strip_suffix(".sh").unwrap_or_default();
            name.starts_with("test_") && name.ends_with(|last: char| last.is_ascii_digit())
        };
        let mut files = names_in(&env.repo.join(DIR)).unwrap();
        files.retain(is_script);
        let mut all = scripts(&env).unwrap();
        all.sort();
        assert_eq!(all, files);
        for list in ["smoke", "kcsan"] {
            for script in listed(&env, list).unwrap() {
                assert!(all.contains(&script), "xtask/{list} names {script}");
            }
        }
    }
}
