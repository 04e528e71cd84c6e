// SPDX-License-Identifier: GPL-2.0
//! Kernel, modules, selftests and the KUnit kernel; nothing is built twice.

use crate::{
    env::{hash, remove_all, stamped, Env},
    series, toolchain, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavour {
    /// Minimal, with a distribution's values where they matter.
    Plain,
    /// KASAN, lockdep, PROVE_RCU and friends.
    Debug,
    /// KCSAN, which looks for data races.
    Kcsan,
    /// Plain, but with CONFIG_BLK_FILTER=n.
    Without,
}

impl Flavour {
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Plain => "plain",
            Flavour::Debug => "debug",
            Flavour::Kcsan => "kcsan",
            Flavour::Without => "without",
        }
    }

    fn fragments(self) -> &'static [&'static str] {
        match self {
            Flavour::Plain => &["plain"],
            Flavour::Debug => &["plain", "debug"],
            Flavour::Kcsan => &["plain", "kcsan"],
            Flavour::Without => &["plain", "without"],
        }
    }
}

pub struct Kernel {
    pub image: PathBuf,
    /// What the guest sees as /lib/modules.
    pub modules: PathBuf,
    /// The commit it was built from.
    pub commit: String,
}

/// Toolchain and work tree; the commit that the work tree is at.
pub fn prepare(env: &Env) -> Result<String> {
    toolchain::ensure(env)?;
    let mutant = env.mutant.borrow().clone();
    ui::step("apply the series", |_| series::sync(env, mutant.as_deref()))
}

pub fn dir(env: &Env, what: &str, flavour: Flavour) -> PathBuf {
    let name = format!("{}{}", flavour.name(), env.suffix());
    env.cache.join(what).join(name)
}

fn jobs() -> String {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    format!("-j{cores}")
}

pub fn make(env: &Env, build: &Path) -> Command {
    make_in(env, &env.linux(), build)
}

fn make_in(env: &Env, tree: &Path, build: &Path) -> Command {
    let mut make = env.tool_in(tree, "make", &[]);
    make.args(["LLVM=1", "CC=ccache clang", &jobs()])
        .arg(format!("O={}", build.display()));
    make
}

/// The options of a fragment that a configuration does not have as they were asked for.
fn lost(fragment: &str, config: &str) -> Vec<String> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for line in fragment.lines().filter(|l| l.starts_with("CONFIG_")) {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        wanted.retain(|(other, _)| *other != name);
        wanted.push((name, value));
    }
    let has = |name: &str| {
        config
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or("n")
    };
    wanted
        .into_iter()
        .filter(|(name, value)| has(name) != *value)
        .map(|(name, value)| format!("{name}={value} (it is {})", has(name)))
        .collect()
}

/// Writes `.config` from the fragments of a flavour, if they changed.
fn configure(env: &Env, flavour: Flavour, build: &Path) -> Result<()> {
    let mut text = String::new();
    for name in flavour.fragments() {
        text += &fs::read_to_string(env.repo.join(format!("xtask/kernel/{name}.config")))?;
    }
    fs::create_dir_all(build)?;
    let fragment = build.join("fragment.config");
    let config = build.join(".config");
    if !stamped(&fragment, &text) || !config.exists() {
        remove_all(&fragment)?;
        let all = build.join("fragment.partial");
        fs::write(&all, &text)?;
        ui::step(
            &format!("configure the {} kernel", flavour.name()),
            |step| {
                let mut command = make(env, build);
                command
                    .arg(format!("KCONFIG_ALLCONFIG={}", all.display()))
                    .arg("allnoconfig");
                ui::run_logged(&mut command, &env.log("config"), step)
            },
        )?;
        let lost = lost(&text, &fs::read_to_string(&config)?);
        if !lost.is_empty() {
            bail!(
                "xtask/kernel/{}.config asks for what this kernel does not have or whose \
                 dependencies are not there:\n{}",
                flavour.name(),
                lost.join("\n")
            );
        }
        fs::rename(&all, &fragment)?;
    }
    Ok(())
}

/// Builds kernel and modules of a flavour if anything changed.
pub fn kernel(env: &Env, flavour: Flavour) -> Result<Kernel> {
    let commit = prepare(env)?;
    let build = dir(env, "build", flavour);
    let modroot = dir(env, "modules", flavour);
    let kernel = Kernel {
        image: build.join("arch/x86/boot/bzImage"),
        modules: modroot.join("lib/modules"),
        commit: commit.clone(),
    };
    configure(env, flavour, &build)?;
    let stamp = build.join("blkfilter-built");
    let config = fs::read_to_string(build.join("fragment.config"))?;
    let want = format!("{commit} {:x}", hash(&config));
    if stamped(&stamp, &want) && kernel.image.exists() && kernel.modules.exists() {
        return Ok(kernel);
    }
    let name = flavour.name();
    ui::step(&format!("build the {name} kernel"), |step| {
        let mut command = make(env, &build);
        command.args(["bzImage", "modules"]);
        ui::run_logged(&mut command, &env.log(&format!("build-{name}")), step)
    })?;
    ui::step(&format!("install the {name} modules"), |step| {
        remove_all(&modroot)?;
        let mut command = make(env, &build);
        command
            .arg(format!("INSTALL_MOD_PATH={}", modroot.display()))
            .arg("modules_install");
        ui::run_logged(&mut command, &env.log("modules_install"), step)
    })?;
    fs::write(stamp, want)?;
    Ok(kernel)
}

/// Bytes of code and of constant data in a kernel, as `size` counts them.
pub fn text_size(env: &Env, flavour: Flavour) -> Result<i64> {
    let vmlinux = dir(env, "build", flavour).join("vmlinux");
    let out = ui::output(env.tool_in(&env.cache, "llvm-size", &[]).arg(vmlinux))?;
    let number = out
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().next());
    Ok(number.context("what does llvm-size say?")?.parse()?)
}

/// A second work tree, at a commit.
fn worktree(env: &Env, name: &str, commit: &str) -> Result<PathBuf> {
    let tree = env.cache.join(format!("{name}{}", env.suffix()));
    if !tree.join("Makefile").exists() {
        remove_all(&tree)?;
        ui::output(env.git().args(["worktree", "prune"]))?;
        let mut git = env.git();
        git.args(["worktree", "add", "-q", "--force", "--detach"]);
        ui::output(git.arg(&tree).arg(commit))?;
    } else {
        // Left by one that was killed; the lock of the cache keeps others out.
        let admin = env
            .linux()
            .join(".git/worktrees")
            .join(tree.file_name().unwrap());
        fs::remove_file(admin.join("index.lock")).ok();
        let mut git = env.git();
        git.arg("-C").arg(&tree);
        ui::output(git.args(["checkout", "-q", "--detach", commit]))?;
    }
    Ok(tree)
}

/// Builds each commit of the series for user mode, with all that it has; warnings are errors.
pub fn commits(env: &Env) -> Result<Vec<(String, Result<()>)>> {
    prepare(env)?;
    let commits = series::commits(env)?;
    let build = env.cache.join(format!("build/commits{}", env.suffix()));
    fs::create_dir_all(&build)?;
    let all = build.join("fragment.config");
    fs::copy(env.repo.join("xtask/kernel/commits.config"), &all)?;
    let log = env.log("commits");
    let mut built = Vec::new();
    for (name, id) in &commits {
        let tree = worktree(env, "commits", id)?;
        let make = || {
            let mut make = make_in(env, &tree, &build);
            make.args(["ARCH=um", "-s"]);
            make
        };
        let outcome = ui::step(&format!("build {name}"), |step| {
            // Each commit has other options.
            let mut config = make();
            config.arg(format!("KCONFIG_ALLCONFIG={}", all.display()));
            ui::run_logged(config.arg("allnoconfig"), &log, step)?;
            ui::run_logged(make().args(["linux", "modules"]), &log, step)?;
            let modules = "tools/testing/selftests/blkfilter/test_modules";
            if tree.join(modules).exists() {
                let mut make = make();
                make.arg(format!("M={modules}"));
                make.arg(format!("MO={}", build.join("test_modules").display()));
                ui::run_logged(make.arg("modules"), &log, step)?;
            }
            Ok(())
        });
        built.push((name.clone(), outcome));
    }
    Ok(built)
}

/// The instructions of each object in `block/`, of the kernel without the series and of that with
/// it and `CONFIG_BLK_FILTER=n`: name and both.
pub fn objects(env: &Env) -> Result<Vec<(String, String, String)>> {
    prepare(env)?;
    let base = worktree(env, "base", &crate::source::ensure(env)?)?;
    let mut fragment = String::new();
    for name in ["plain", "without", "objects"] {
        fragment += &fs::read_to_string(env.repo.join(format!("xtask/kernel/{name}.config")))?;
    }
    let mut both = Vec::new();
    for (name, tree) in [("base", base), ("series", env.linux())] {
        let build = env
            .cache
            .join(format!("build/objects-{name}{}", env.suffix()));
        fs::create_dir_all(&build)?;
        ui::step(&format!("build block/ of the {name}"), |step| {
            let all = build.join("fragment.config");
            let make = || {
                let mut make = make_in(env, &tree, &build);
                make.arg("-s");
                make
            };
            if !stamped(&all, &fragment) {
                fs::write(&all, &fragment)?;
                let mut config = make();
                config
                    .arg(format!("KCONFIG_ALLCONFIG={}", all.display()))
                    .arg("allnoconfig");
                ui::run_logged(&mut config, &env.log("config"), step)?;
            }
            let log = env.log(&format!("objects-{name}"));
            ui::run_logged(make().arg("block/"), &log, step)
        })?;
        let mut code = std::collections::BTreeMap::new();
        for dir in ["block", "block/partitions"] {
            for entry in fs::read_dir(build.join(dir))? {
                let path = entry?.path();
                if path.extension().is_none_or(|e| e != "o") {
                    continue;
                }
                let mut objdump = env.tool_in(&build, "llvm-objdump", &[]);
                objdump.args(["-d", "-r", "--no-show-raw-insn", "-j", ".text"]);
                let text = ui::output(objdump.arg(&path))?;
                // The first lines have the name of the file.
                let text: Vec<&str> = text.lines().skip(3).collect();
                let name = path.strip_prefix(&build)?.display().to_string();
                code.insert(name, text.join("\n"));
            }
        }
        both.push(code);
    }
    let [base, series] = both.try_into().expect("two");
    let mut names: Vec<&String> = base.keys().chain(series.keys()).collect();
    names.sort();
    names.dedup();
    let get = |map: &std::collections::BTreeMap<String, String>, name: &String| {
        map.get(name).cloned().unwrap_or_default()
    };
    Ok(names
        .into_iter()
        .map(|name| (name.clone(), get(&base, name), get(&series, name)))
        .collect())
}

/// Builds and installs our selftests, with the kselftest runner, for a built kernel.
pub fn selftests(env: &Env, flavour: Flavour, kernel: &Kernel) -> Result<PathBuf> {
    let build = dir(env, "build", flavour);
    let install = dir(env, "selftests", flavour);
    let stamp = install.join("blkfilter-built");
    if stamped(&stamp, &kernel.commit) {
        return Ok(install);
    }
    ui::step(&format!("build the {} selftests", flavour.name()), |step| {
        remove_all(&install)?;
        // Objects of another flavour's build would be in the way.
        let modules = env
            .linux()
            .join("tools/testing/selftests/blkfilter/test_modules");
        let clean = ["clean", "-q", "-x", "-f", "--"];
        ui::output(env.git().args(clean).arg(modules))?;
        let mut command = make(env, &build);
        command
            .args(["-C", "tools/testing/selftests", "TARGETS=blkfilter"])
            .arg(format!("KDIR={}", build.display()))
            .arg(format!("INSTALL_PATH={}", install.display()))
            .arg("install");
        ui::run_logged(&mut command, &env.log("selftests"), step)
    })?;
    if !install
        .join("blkfilter/test_modules/blkfilter_bench.ko")
        .exists()
    {
        bail!(
            "the selftests' module was not built, see {}",
            env.log("selftests").display()
        );
    }
    fs::write(stamp, &kernel.commit)?;
    Ok(install)
}

/// Runs our KUnit suites in a user-mode kernel; kunit.py's results as JSON.
pub fn uml_kunit(env: &Env) -> Result<PathBuf> {
    prepare(env)?;
    let build = env.cache.join(format!("build/uml{}", env.suffix()));
    let json = build.join("kunit.json");
    fs::create_dir_all(&build)?;
    remove_all(&json)?;
    ui::step("build and run KUnit in a user-mode kernel", |step| {
        let mut command = env.tool_in(&env.linux(), "tools/testing/kunit/kunit.py", &[]);
        command
            .args(["run", "--make_options", "LLVM=1"])
            .arg(jobs().replace("-j", "--jobs="))
            .args(["--make_options", "CC=ccache clang"])
            .arg(format!("--build_dir={}", build.display()))
            .arg(format!("--json={}", json.display()))
            .arg("--kunitconfig")
            .arg(env.repo.join("xtask/kernel/uml.config"))
            .args(["--timeout", "300"]);
        // It fails when a test fails; which one is for the caller to say.
        let result = ui::run_logged(&mut command, &env.log("kunit-uml"), step);
        match json.exists() {
            true => Ok(()),
            false => result.and_then(|()| bail!("kunit.py left no results")),
        }
    })?;
    Ok(json)
}

/// `make` for user mode.
fn make_uml(env: &Env, build: &Path) -> Command {
    let mut make = make(env, build);
    make.args(["ARCH=um", "-s"]);
    make
}

/// Writes `.config` for user mode from a fragment, if that changed.
fn configure_uml(env: &Env, build: &Path, fragment: &str, step: &ui::Step) -> Result<()> {
    fs::create_dir_all(build)?;
    let all = build.join("fragment.config");
    if stamped(&all, fragment) {
        return Ok(());
    }
    fs::write(&all, fragment)?;
    let mut config = make_uml(env, build);
    config
        .arg(format!("KCONFIG_ALLCONFIG={}", all.display()))
        .arg("allnoconfig");
    ui::run_logged(&mut config, &env.log("config"), step)?;
    let lost = lost(fragment, &fs::read_to_string(build.join(".config"))?);
    if !lost.is_empty() {
        remove_all(&all)?;
        bail!("not to be had: {}", lost.join(", "));
    }
    Ok(())
}

/// Builds the kernel crate, and all that comes before it, for user mode and with `options`.
pub fn crate_with(env: &Env, options: &[&str]) -> Result<()> {
    prepare(env)?;
    let name = options.join("-").replace(['=', '_'], "-").to_lowercase();
    let build = env
        .cache
        .join(format!("build/crate-{name}{}", env.suffix()));
    ui::step(
        &format!("build the kernel crate with {}", options.join(", ")),
        |step| {
            let mut fragment =
                String::from("CONFIG_64BIT=y\nCONFIG_EXPERT=y\nCONFIG_MODULES=y\nCONFIG_RUST=y\n");
            for option in options {
                fragment += &format!("{option}\n");
            }
            configure_uml(env, &build, &fragment, step)?;
            let log = env.log("crate");
            ui::run_logged(make_uml(env, &build).arg("prepare"), &log, step)?;
            // Such as code that nobody uses.
            if fs::read_to_string(&log)?.contains("--> rust/kernel/block") {
                bail!("there are warnings, see {}", log.display());
            }
            Ok(())
        },
    )
}

/// Builds user-mode Linux for the bench, and the selftests' modules for it; program and modules.
pub fn uml_bench(env: &Env) -> Result<(PathBuf, PathBuf)> {
    prepare(env)?;
    let build = env.cache.join(format!("build/umlbench{}", env.suffix()));
    let modules = env.cache.join(format!("modules/umlbench{}", env.suffix()));
    ui::step("build user-mode Linux for the bench", |step| {
        let fragment = fs::read_to_string(env.repo.join("xtask/kernel/umlbench.config"))?;
        configure_uml(env, &build, &fragment, step)?;
        let log = env.log("umlbench");
        ui::run_logged(make_uml(env, &build).args(["linux", "modules"]), &log, step)?;
        let source = "tools/testing/selftests/blkfilter/test_modules";
        fs::create_dir_all(&modules)?;
        for entry in fs::read_dir(env.repo.join(source))? {
            let path = entry?.path();
            let text = fs::read(&path)?;
            let copy = modules.join(path.file_name().unwrap_or_default());
            if fs::read(&copy).ok().as_ref() != Some(&text) {
                fs::write(copy, text)?;
            }
        }
        let mut make = make_uml(env, &build);
        make.arg(format!("M={}", modules.display())).arg("modules");
        ui::run_logged(&mut make, &env.log("umlbench-modules"), step)
    })?;
    Ok((build.join("linux"), modules))
}

/// The KTAP in a kernel log, as JSON.
pub fn parse_kunit(env: &Env, log: &str) -> Result<PathBuf> {
    let (text, json) = (env.log("kunit-qemu"), env.cache.join("log/kunit-qemu.json"));
    fs::write(&text, log)?;
    remove_all(&json)?;
    let mut command = env.tool_in(&env.linux(), "tools/testing/kunit/kunit.py", &[]);
    command
        .args(["parse", "--json"])
        .arg(format!("--json={}", json.display()))
        .arg(&text);
    // Its status says whether tests failed; the caller looks at each.
    let out = command.output()?;
    if !json.exists() {
        bail!("kunit.py: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(json)
}

/// Builds a filter that lives outside of the tree; the modules it made.
pub fn module(env: &Env, flavour: Flavour, source: &Path) -> Result<Vec<PathBuf>> {
    let source = source
        .canonicalize()
        .with_context(|| format!("no directory {}", source.display()))?;
    if !source.join("Kbuild").exists() && !source.join("Makefile").exists() {
        bail!(
            "{} has no Kbuild: one line does, `obj-m := my_filter.o`",
            source.display()
        );
    }
    kernel(env, flavour)?;
    // In a copy, so that the source stays clean.
    let copy = env.cache.join(format!(
        "module-{:08x}",
        hash(&source.as_os_str().as_encoded_bytes()) as u32
    ));
    fs::create_dir_all(&copy)?;
    ui::output(Command::new("cp").arg("-rupT").args([&source, &copy]))?;
    ui::step(&format!("build {}", source.display()), |step| {
        let mut command = make(env, &dir(env, "build", flavour));
        command.arg(format!("M={}", copy.display())).arg("modules");
        ui::run_logged(&mut command, &env.log("module"), step)
    })?;
    let mut modules = Vec::new();
    for entry in fs::read_dir(&copy)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ko") {
            modules.push(path);
        }
    }
    if modules.is_empty() {
        bail!("no module came out of {}", source.display());
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_options_are_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_S=\"x\"\n";
        assert!(lost(
            "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=m\nCONFIG_S=\"x\"\n",
            config
        )
        .is_empty());
        assert_eq!(lost("CONFIG_D=y\n", config), ["CONFIG_D=y (it is n)"]);
        assert_eq!(lost("CONFIG_C=y\n", config), ["CONFIG_C=y (it is m)"]);
        // The last one counts: debug.config may overrule plain.config.
        assert!(lost("CONFIG_A=n\nCONFIG_A=y\n", config).is_empty());
    }
}
