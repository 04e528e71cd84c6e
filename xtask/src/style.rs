// SPDX-License-Identifier: GPL-2.0
//! The kernel's own checks of what we would mail.

use crate::{
    build,
    env::Env,
    ktap::{Case, Outcome},
    series, ui,
};
use anyhow::{Context, Result};
use std::{fs, process::Command};

/// Not asked for: a sign-off is the poster's; MAINTAINERS comes in the last patch;
/// `Kconfig.blkfilter` has a `Kconfig` in its name; the environment of a uevent is not const; flags
/// look like their neighbours; macros of trace events are laid out as in other trace headers.
const CHECKPATCH: [&str; 4] = [
    "--strict",
    "--no-signoff",
    "--show-types",
    "--ignore=FILE_PATH_CHANGES,EMBEDDED_FILENAME,STATIC_CONST_CHAR_ARRAY,BIT_MACRO,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT",
];

/// The most lines of code that a small filter has. If it needs more the API lacks something.
const LINES: [(&str, usize); 3] = [
    ("samples/rust/rust_blkfilter.rs", 60),
    ("samples/rust/rust_blkerror.rs", 120),
    ("samples/rust/rust_blkdelay.rs", 120),
];

fn case(name: String, mut command: Command) -> Result<Case> {
    let out = command.output()?;
    let good = out.status.success();
    if !good {
        eprintln!("--- {name}:");
        eprint!("{}", String::from_utf8_lossy(&out.stdout));
        eprint!("{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(Case {
        name,
        outcome: if good { Outcome::Pass } else { Outcome::Fail },
    })
}

/// Compiles again what the built kernel has at `object`, with clippy and the kernel's flags.
fn clippy(env: &Env, object: &str) -> Result<Case> {
    let build = build::dir(env, "build", build::Flavour::Plain);
    let (dir, name) = object.rsplit_once('/').context("no directory")?;
    let saved = fs::read_to_string(build.join(dir).join(format!(".{name}.cmd")))?;
    let line = saved.lines().next().unwrap_or_default();
    let (_, command) = line.split_once(":= ").context("no command")?;
    let command = command.split(" ;").next().unwrap_or_default();
    let out = env.cache.join("style/clippy");
    fs::create_dir_all(&out)?;
    let words: Vec<String> = command
        .split(' ')
        .filter(|word| !word.starts_with("--emit=") && !word.starts_with("--out-dir"))
        .filter(|word| *word != format!("{dir}/"))
        .map(|word| match word {
            "rustc" => "clippy-driver".to_string(),
            _ => word.to_string(),
        })
        .collect();
    let script = format!(
        "{} --emit=metadata --out-dir={} -Dwarnings",
        words.join(" "),
        out.display()
    );
    let mut command = env.tool_in(&build, "sh", &[]);
    command
        .args(["-c", &script])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CLIPPY_CONF_DIR", env.linux());
    case(format!("clippy {object}"), command)
}

/// The documentation of the kernel crate, without a warning about ours.
fn rustdoc(env: &Env) -> Result<Case> {
    let log = env.log("rustdoc");
    ui::step("rustdoc", |step| {
        let mut make = build::make(env, &build::dir(env, "build", build::Flavour::Plain));
        ui::run_logged(make.arg("rustdoc"), &log, step)
    })?;
    let text = fs::read_to_string(&log)?;
    let ours: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("--> ") && line.contains("kernel/block/"))
        .collect();
    if !ours.is_empty() {
        eprintln!("--- rustdoc, see {}:\n{}", log.display(), ours.join("\n"));
    }
    Ok(Case {
        name: "rustdoc".into(),
        outcome: match ours.is_empty() {
            true => Outcome::Pass,
            false => Outcome::Fail,
        },
    })
}

/// Rust with the kernel's lints, against the plain kernel.
pub fn lint(env: &Env) -> Result<Vec<Case>> {
    build::kernel(env, build::Flavour::Plain)?;
    let mut cases = ui::step("clippy", |_| {
        let mut cases = vec![clippy(env, "rust/kernel.o")?];
        for file in series::own_files(env)? {
            if let Some(name) = file.strip_suffix(".rs") {
                if file.starts_with("samples/") {
                    cases.push(clippy(env, &format!("{name}.o"))?);
                }
            }
        }
        Ok(cases)
    })?;
    cases.push(rustdoc(env)?);
    for options in [
        &["CONFIG_BLOCK=n"][..],
        &["CONFIG_BLOCK=y", "CONFIG_BLK_FILTER=n"],
        &["CONFIG_BLOCK=y", "CONFIG_BLK_FILTER=y"],
    ] {
        let built = build::crate_with(env, options);
        if let Err(error) = &built {
            eprintln!("{error:#}");
        }
        cases.push(Case {
            name: format!("the kernel crate with {}", options.join(", ")),
            outcome: match built {
                Ok(()) => Outcome::Pass,
                Err(_) => Outcome::Fail,
            },
        });
    }
    Ok(cases)
}

/// Each commit of the series builds, so that a bisection can stop there.
pub fn commits(env: &Env) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, built) in build::commits(env)? {
        if let Err(error) = &built {
            eprintln!("{error:#}");
        }
        cases.push(Case {
            name: format!("{name} builds"),
            outcome: match built {
                Ok(()) => Outcome::Pass,
                Err(_) => Outcome::Fail,
            },
        });
    }
    Ok(cases)
}

/// checkpatch of each patch; rustfmt and kernel-doc of each file of ours.
pub fn check(env: &Env) -> Result<Vec<Case>> {
    build::prepare(env)?;
    ui::step("the kernel's own checks", |_| {
        let mut cases = Vec::new();
        let dir = env.cache.join("style");
        crate::env::remove_all(&dir)?;
        for name in &series::write(env, &dir, 1)?[1..] {
            let mut command = env.tool_in(&env.linux(), "scripts/checkpatch.pl", &[]);
            command.args(CHECKPATCH).arg(dir.join(name));
            cases.push(case(format!("checkpatch {name}"), command)?);
        }
        // A seeded bug that is not one of this source any more would prove nothing.
        for entry in fs::read_dir(env.repo.join("xtask/mutants"))? {
            let dir = entry?.path();
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            let mut command = env.git();
            command.args(["apply", "--check"]).arg(dir.join("diff"));
            cases.push(case(format!("seeded bug {name} applies"), command)?);
        }
        for (name, most) in LINES {
            let text = fs::read_to_string(env.repo.join(name))?;
            let code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
            let lines = text.lines().filter(code).count();
            if lines > most {
                eprintln!("{name}: {lines} lines of code, at most {most}");
            }
            cases.push(Case {
                name: format!("size of {name}"),
                outcome: match lines <= most {
                    true => Outcome::Pass,
                    false => Outcome::Fail,
                },
            });
        }
        for file in series::own_files(env)? {
            // These have lines that exclude each other.
            if file.contains("/compile_fail/") {
                continue;
            }
            let mut command = if file.ends_with(".rs") {
                let mut command = env.tool_in(&env.linux(), "rustfmt", &[]);
                command.args([
                    "--check",
                    "--edition",
                    "2021",
                    "--config-path",
                    ".rustfmt.toml",
                ]);
                command
            } else if (file.starts_with("block/blk-filter") && file.ends_with(".c"))
                || file == "include/linux/blk-filter.h"
            {
                let mut command = env.tool_in(&env.linux(), "scripts/kernel-doc", &[]);
                command.args(["-none", "-Werror"]);
                command
            } else {
                continue;
            };
            let tool = if file.ends_with(".rs") {
                "rustfmt"
            } else {
                "kernel-doc"
            };
            command.arg(&file);
            cases.push(case(format!("{tool} {file}"), command)?);
        }
        Ok(cases)
    })
}
