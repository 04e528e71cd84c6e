// SPDX-License-Identifier: GPL-2.0
//! The kernel source: Debian's package, or a tree of the user's own.

use crate::{
    env::{remove_all, Env, Toolchain},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{fs, path::Path, process::Command};

/// What the series is written against. The archive keeps it for a while, not for ever.
const PACKAGE: &str = "linux-source-7.3";
const PINNED: &str = "7.3.4-1~bpo13+1";

/// Runs a shell script of the toolchain, with the network.
fn script(env: &Env, text: &str) -> Result<String> {
    ui::output(env.tool("sh").args(["-ec", text]))
}

/// Chooses the package and version: the pinned one, else the newest 7.3.y, else the nearest.
fn choose(env: &Env) -> Result<(String, String)> {
    // The suite's own mirror, with its backports beside it.
    script(
        env,
        "sed -n 's/^deb \\(\\S*\\) trixie main.*/deb \\1 trixie-backports main/p' \
             /etc/apt/sources.list | head -n 1 > /etc/apt/sources.list.d/backports.list; \
         apt-get -q update",
    )
    .context("the package archive cannot be read: is the network there?")?;
    let madison = |package: &str| -> Result<Vec<String>> {
        let out = script(env, &format!("apt-cache madison {package} || true"))?;
        let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_string());
        Ok(out.lines().filter_map(version).collect())
    };
    let versions = madison(PACKAGE)?;
    if versions.iter().any(|version| version == PINNED) {
        return Ok((PACKAGE.into(), PINNED.into()));
    }
    if let Some(newest) = versions.first() {
        eprintln!("NOTE: {PACKAGE} {PINNED} is not offered any more; using {newest}");
        return Ok((PACKAGE.into(), newest.clone()));
    }
    let names = script(
        env,
        "apt-cache search --names-only '^linux-source-[0-9.]+$'",
    )?;
    let mut nearest: Vec<(u32, u32, String)> = names
        .lines()
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let (major, minor) = name.strip_prefix("linux-source-")?.split_once('.')?;
            let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
            Some((major.abs_diff(7), minor.abs_diff(3), name.to_string()))
        })
        .collect();
    nearest.sort();
    for (_, _, name) in nearest {
        if let Some(version) = madison(&name)?.first() {
            eprintln!("WARNING: no {PACKAGE} is offered any more. Trying {name} {version}:");
            eprintln!("WARNING: the series was not written for it and may not apply.");
            return Ok((name, version.clone()));
        }
    }
    bail!("the archive offers no kernel source at all; use --kernel DIR");
}

/// Unpacks Debian's kernel source into `into`; what it is, in words.
fn debian(env: &Env, into: &Path) -> Result<String> {
    if env.toolchain == Toolchain::Host {
        bail!("--toolchain host does not fetch a kernel: give it one with --kernel DIR");
    }
    let dir = env.cache.join("source");
    fs::create_dir_all(&dir)?;
    ui::step("fetch the kernel source", |step| {
        let (package, version) = choose(env)?;
        let file = format!("{package}_{}_all.deb", version.replace(':', "%3a"));
        if !dir.join(&file).exists() {
            let get = format!(
                "rm -rf partial; mkdir partial; cd partial; apt-get -q download {package}={version}; mv *.deb ../{file}"
            );
            let mut command = env.tool_in(&dir, "sh", &[]);
            command.args(["-ec", &get]);
            ui::run_logged(&mut command, &env.log("source"), step)
                .context("the kernel source could not be downloaded")?;
        }
        let unpack = format!(
            "dpkg-deb --fsys-tarfile {file} | tar xO ./usr/src/{package}.tar.xz | \
             tar xJ --strip-components=1 -C {}",
            into.display()
        );
        let mut command = env.tool_in(&dir, "bash", &[]);
        command.args(["-eo", "pipefail", "-c", &unpack]);
        ui::run_logged(&mut command, &env.log("unpack"), step)?;
        Ok(format!("{package} {version}"))
    })
}

/// Copies a tree of the user's own: what is committed if it is a git work tree, all of it if not.
fn own(dir: &Path, into: &Path) -> Result<String> {
    let copy = if dir.join(".git").exists() {
        "git -C \"$1\" archive HEAD | tar x -C \"$2\""
    } else {
        "cp -a \"$1\"/. \"$2\""
    };
    ui::step(&format!("copy {}", dir.display()), |_| {
        ui::output(
            Command::new("bash")
                .args(["-eo", "pipefail", "-c", copy, "bash"])
                .args([dir, into]),
        )
    })?;
    Ok(dir.display().to_string())
}

/// "7.3.4", from the Makefile.
pub fn version(tree: &Path) -> Result<String> {
    let text = fs::read_to_string(tree.join("Makefile"))?;
    let part = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once('=')?.1.trim().to_string())
    };
    let parts = [part("VERSION ="), part("PATCHLEVEL ="), part("SUBLEVEL =")];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join("."))
}

/// Makes the work tree if it is not there: a repository with one commit, on branch `base`.
pub fn ensure(env: &Env) -> Result<()> {
    let linux = env.linux();
    if linux.exists() {
        return Ok(());
    }
    let partial = linux.with_extension("partial");
    remove_all(&partial)?;
    fs::create_dir_all(&partial)?;
    let what = match &env.kernel {
        Some(dir) => own(dir, &partial)?,
        None => debian(env, &partial)?,
    };
    ui::step("make the work tree a git repository", |step| {
        let script = "git init -q -b base . && git config user.name 'blkfilter developers' && \
            git config user.email blkfilter@localhost && git config core.compression 0 && \
            git config gc.auto 0 && git add -A -f . && git commit -q -m \"$1\"";
        let message = format!("Linux {} ({what})", version(&partial)?);
        let mut command = env.tool_in(&partial, "sh", &[]);
        command.args(["-ec", script, "sh", &message]);
        command
            .env("GIT_COMMITTER_DATE", DATE)
            .env("GIT_AUTHOR_DATE", DATE);
        ui::run_logged(&mut command, &env.log("git-init"), step)
    })?;
    fs::rename(&partial, &linux)?;
    Ok(())
}

/// Commits of the same content are the same commits.
pub const DATE: &str = "2026-01-01T00:00:00Z";
