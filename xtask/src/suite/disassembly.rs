// SPDX-License-Identifier: GPL-2.0
//! With `CONFIG_BLK_FILTER=n` not an instruction of `block/` differs from the kernel without the
//! series.

use crate::{
    build::{self, Build},
    env::{names_in, Env},
    ktap::Case,
    source, ui,
};
use anyhow::{bail, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// The instructions of each object in `block/`, built from `source`, by the object's path.
fn objects(env: &Env, name: &str, source: PathBuf) -> Result<BTreeMap<String, String>> {
    let fragment = build::fragment(env, &["plain", "without", "objects"])?;
    let name = format!("objects-{name}");
    let mut build = Build::named(env, &name);
    build.source = source;
    ui::step(&format!("build {name}"), |step| {
        build.configure_what_is_there(&fragment, step)?;
        build.make(&["-s", "block/"], &name, step)
    })?;
    let mut objects = BTreeMap::new();
    for dir in ["block", "block/partitions"] {
        for file in names_in(&build.dir.join(dir))?.iter().filter(|file| file.ends_with(".o")) {
            let name = format!("{dir}/{file}");
            let mut objdump = env.tool_in(&build.dir, "llvm-objdump", &[]);
            let text = ui::output(objdump.args(["-d", "-r", "--no-show-raw-insn", &name]))?;
            // The first lines have the name of the file.
            let code: Vec<&str> = text.lines().skip(3).collect();
            objects.insert(name, code.join("\n"));
        }
    }
    if objects.len() < 50 {
        bail!("only {} objects were built from block/", objects.len());
    }
    Ok(objects)
}

pub fn run(env: &Env) -> Result<Vec<Case>> {
    build::prepare(env)?;
    let base = objects(env, "base", build::worktree(env, "base", &source::ensure(env)?)?)?;
    let series = objects(env, "series", env.linux())?;
    println!("{} and {} objects compared", base.len(), series.len());
    let names: BTreeSet<&String> = base.keys().chain(series.keys()).collect();
    for name in names {
        let [base, series] = [&base, &series].map(|all| all.get(name).map_or("", |s| s));
        if base != series {
            let lines = base.lines().zip(series.lines());
            let at = lines.take_while(|(a, b)| a == b).count();
            eprintln!("{name} differs, first in line {at} of its disassembly:");
            for text in [base, series] {
                eprintln!("    {}", text.lines().nth(at).unwrap_or("(its end)"));
            }
        }
    }
    let name = "C2: CONFIG_BLK_FILTER=n: the same instructions in block/";
    Ok(vec![Case::of(name, base == series)])
}
