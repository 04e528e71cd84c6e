// SPDX-License-Identifier: GPL-2.0
//! The kernel selftests of `tools/testing/selftests/blkfilter`, in guests and with the compiler.

use super::{log_case, not_run, Options};
use crate::{
    build::{self, Build, Flavour},
    env::{names_in, remove_all, Env},
    ktap::{self, Case},
    qemu, toolchain, ui,
};
use anyhow::{bail, Result};
use std::{fs, path::Path, thread, time::Instant};

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
        // KCSAN is slow, so `--full` does not make lists run for long.
        return in_guests(env, flavour, &listed(env, list)?, false, None);
    }
    in_guests(env, flavour, &chosen, options.full, None)
}

/// What a guest prints before a script.
const NEXT: &str = "blkfilter: next script: ";

/// The scripts that take long, the longest first. They begin first, so that no guest is left with one
/// of them at the end. A script that is missing here costs time and nothing else.
const LONG: &str = "test_backup_01.sh test_swap_01.sh test_remove_04.sh test_rust_01.sh \
                    test_freeze_01.sh test_stack_01.sh test_matrix_02.sh test_sysfs_01.sh";

/// Runs `scripts` in as many guests as there are processors here, because a script keeps one
/// processor busy. A guest that is done with a script takes the next one. The queue is a directory
/// that all guests see over 9p: the guest that makes `queue/SCRIPT` there runs that script, since
/// mkdir() succeeds only once. What a guest that died would have run is run by the others.
///
/// `full` makes the scripts repeat their races for long; `mutant` is the directory of a seeded bug.
pub fn in_guests(
    env: &Env,
    flavour: Flavour,
    scripts: &[String],
    full: bool,
    mutant: Option<&Path>,
) -> Result<Vec<Case>> {
    let kernel = build::kernel_with(env, flavour, mutant)?;
    let install = build::selftests(env, flavour, &kernel)?;
    let queue = install.join("out/queue");
    remove_all(&queue)?;
    fs::create_dir_all(&queue)?;
    let mut order: Vec<&str> = scripts.iter().map(String::as_str).collect();
    order.sort_by_key(|script| LONG.split(' ').position(|long| long == *script).unwrap_or(99));
    // A debug kernel takes longer for everything, and a full run repeats what takes long.
    let is_slow = full || flavour != Flavour::Plain;
    let command = format!(
        "cp -r /mnt/share /tmp/selftests && cd /tmp/selftests || exit
         {}
         for script in {}; do
             mkdir /mnt/share/out/queue/$script 2> /dev/null || continue
             echo \"{NEXT}$script\"
             ./run_kselftest.sh {} -t blkfilter:$script
         done",
        if full { "export BLKFILTER_ROUNDS=200" } else { "" },
        order.join(" "),
        if is_slow { "-o 2700" } else { "" },
    );
    let mut guest = qemu::Guest::new(&kernel, command);
    guest.share = Some(install);
    guest.cpus = 4;
    guest.kmemleak = flavour == Flavour::Debug;
    // The guest gets a disk /dev/pmem0.
    guest.cmdline = "memmap=64M!1G".into();
    guest.timeout = if flavour == Flavour::Plain { 2700 } else { 5400 };
    if full {
        guest.timeout *= 3;
    }
    if mutant.is_some() {
        // An oops is how some bugs show themselves to the test. Other bugs hang the guest after
        // the check has failed.
        guest.cmdline += " sysctl.kernel.panic_on_oops=0";
        guest.timeout = 120;
    }
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let (count, guest) = (cores.min(4).min(scripts.len()), &guest);
    // The guests share what is made once: the image of their root, the choice of an accelerator.
    toolchain::guest_image(env)?;
    qemu::accelerator(env, &kernel)?;
    let name = format!("selftests on the {} kernel", flavour.name());
    ui::step(&name, |_| {
        let run = || {
            let (mut outputs, mut since) = (Vec::new(), Instant::now());
            let outcome = qemu::run(env, guest, |line| listen(line, &mut outputs, &mut since));
            (outputs, outcome)
        };
        let ran: Vec<_> = thread::scope(|scope| {
            let guests: Vec<_> = (0..count).map(|_| scope.spawn(run)).collect();
            guests.into_iter().map(|guest| guest.join().expect("no panic")).collect()
        });
        let mut cases = Vec::new();
        for (outputs, outcome) in ran {
            cases.extend(outputs.iter().flat_map(|output| ktap::selftests(output)));
            let outcome = match outcome {
                Ok(outcome) => outcome,
                // The checks that ran before the guest died count.
                Err(error) => {
                    cases.push(Case::of_result("a guest came to no good end", Err(error)));
                    continue;
                }
            };
            if flavour == Flavour::Kcsan && !outcome.log.contains("kcsan: enabled") {
                bail!("KCSAN is not at work in this kernel");
            }
            let (ours, others): (Vec<_>, Vec<_>) =
                outcome.splats.iter().partition(|splat| is_ours(splat));
            cases.extend(ours.iter().map(|splat| log_case(splat)));
            if flavour == Flavour::Kcsan {
                eprintln!("    {} data races of code that is not ours", others.len());
                for splat in &others {
                    eprintln!("      {}", splat.lines().next().unwrap_or_default());
                }
            }
        }
        cases.extend(not_run(scripts, &cases));
        Ok(cases)
    })
}

/// Takes a line that a guest printed: one output for each script. Each line is printed by one call
/// and with the name of its script, because several guests print.
fn listen(line: &str, outputs: &mut Vec<String>, since: &mut Instant) {
    let script = |output: &str| output.lines().next().unwrap_or_default()[NEXT.len()..].to_string();
    if line.starts_with(NEXT) {
        outputs.push(line.into());
        *since = Instant::now();
        return;
    }
    let Some(output) = outputs.last_mut() else {
        return qemu::print(line);
    };
    *output += line;
    let line = line.trim_end();
    match line.contains("ok 1 selftests: blkfilter: ") {
        true => println!("{line}: {:.1} s", since.elapsed().as_secs_f64()),
        false => println!("{}: {line}", script(output)),
    }
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
    fn each_script_has_an_output_of_its_own() {
        let (mut outputs, mut since) = (Vec::new(), Instant::now());
        for line in ["boot", "blkfilter: next script: test_a.sh", "1..1", "# 1..1", "# ok 1 x"] {
            listen(&format!("{line}\n"), &mut outputs, &mut since);
        }
        let died = ktap::selftests(&outputs[0]);
        assert_eq!(died.last(), Some(&Case::fail("the run ended after 0 of 1 scripts")));
        listen("ok 1 selftests: blkfilter: test_a.sh\n", &mut outputs, &mut since);
        listen("blkfilter: next script: test_b.sh\n", &mut outputs, &mut since);
        assert_eq!(ktap::selftests(&outputs[0]), [Case::of("test_a.sh: x", true)]);
        assert_eq!(outputs.len(), 2);
    }

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
        for script in listed(&env, "kcsan").unwrap() {
            assert!(all.contains(&script), "xtask/kcsan names {script}");
        }
    }
}
