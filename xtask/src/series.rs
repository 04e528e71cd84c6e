// SPDX-License-Identifier: GPL-2.0
//! The mailable patches.

use crate::{env::remove_all, env::Env, source, toolchain, tree, ui};
use anyhow::{bail, Context, Result};
use std::{fs, path::Path};

/// Writes the patches, with a cover letter, into `out`.
///
/// The cover letter is `series/cover`: its subject, an empty line, the text. `series/changes`, if
/// it is there, is what changed since the last version.
pub fn write(env: &Env, out: &Path, version: u32) -> Result<Vec<String>> {
    toolchain::ensure(env)?;
    source::ensure(env)?;
    let commits = tree::series(&env.repo)?;
    let ids = tree::assemble(env, "base", &commits)?;
    let tip = ids.last().context("series/ is empty")?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = out.canonicalize()?;
    let linux = env.linux();
    let mut git = env.tool_in(&linux, "git", &[&out]);
    git.args([
        "format-patch",
        "-q",
        "--cover-letter",
        "--base=base",
        "--no-signature",
    ])
    .args(["--no-renames", "--abbrev=12", "--thread=shallow"])
    .arg(format!("-v{version}"))
    .arg("-o")
    .arg(&out)
    .arg(format!("base..{tip}"))
    .env("GIT_COMMITTER_NAME", "blkfilter developers")
    .env("GIT_COMMITTER_EMAIL", "blkfilter@localhost");
    ui::output(&mut git)?;
    let mut names: Vec<String> = fs::read_dir(&out)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with(&format!("v{version}-")))
        .collect();
    names.sort();
    let cover = out.join(names.first().context("git wrote no patches")?);
    let text = fs::read_to_string(env.repo.join("series/cover"))?;
    let (subject, body) = text
        .split_once("\n\n")
        .context("series/cover has no body")?;
    let mut body = body.trim_end().to_string();
    if let Ok(changes) = fs::read_to_string(env.repo.join("series/changes")) {
        body += &format!("\n\n{}", changes.trim_end());
    }
    let letter = fs::read_to_string(&cover)?
        .replace("*** SUBJECT HERE ***", subject.trim())
        .replace("*** BLURB HERE ***", &body);
    fs::write(&cover, letter)?;
    Ok(names)
}

/// Applies the written patches to a pristine base and compares with what is built.
pub fn check(env: &Env) -> Result<()> {
    let dir = env.cache.join("series-check");
    remove_all(&dir)?;
    let names = write(env, &dir.join("patches"), 1)?;
    ui::step("apply the patches to a pristine base", |_| {
        let tree = dir.join("tree");
        ui::output(env.git().args(["worktree", "prune"]))?;
        ui::output(
            env.git()
                .args(["worktree", "add", "-q", "--detach", "--no-checkout"])
                .arg(&tree)
                .arg("base"),
        )?;
        // Only what the patches touch is checked out: git am wants no more.
        let git = || {
            let mut git = env.tool("git");
            git.arg("-C").arg(&tree);
            git
        };
        ui::output(git().args([
            "sparse-checkout",
            "set",
            "--no-cone",
            "/MAINTAINERS",
            "/block/",
        ]))?;
        // Not the branch itself: that has to stay where it is.
        ui::output(git().args(["checkout", "-q", "--detach", "base"]))?;
        for name in &names[1..] {
            ui::output(git().args(["am", "-q"]).arg(dir.join("patches").join(name)))
                .with_context(|| format!("{name} does not apply"))?;
        }
        let id = |what: &str| ui::output(env.git().args(["rev-parse", what]));
        let applied = ui::output(git().args(["rev-parse", "HEAD^{tree}"]))?;
        let built = id(&format!("{}^{{tree}}", tree::sync(env)?))?;
        if applied != built {
            bail!("the patches do not give the tree that is built");
        }
        remove_all(&dir)?;
        ui::output(env.git().args(["worktree", "prune"]))?;
        println!(
            "{} patches apply and give the tree that is built",
            names.len() - 1
        );
        Ok(())
    })
}
