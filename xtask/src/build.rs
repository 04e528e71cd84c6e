// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask build`, and what the other commands build: kernels, modules, the selftests. Nothing
//! is built twice.

use crate::{
    env::{canonical, names_in, remove_all, short_name, stamped, Env},
    series, toolchain, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The modules of the selftests.
pub const MODULES: &str = "tools/testing/selftests/blkfilter/test_modules";

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
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

pub struct Kernel {
    pub image: PathBuf,
    /// What the guest sees as /lib/modules.
    pub modules: PathBuf,
    /// The commit it was built from.
    pub commit: String,
}

/// Brings toolchain and work tree up to date, and returns the commit that the work tree is at.
pub fn prepare(env: &Env) -> Result<String> {
    prepare_with(env, None)
}

pub fn prepare_with(env: &Env, mutant: Option<&Path>) -> Result<String> {
    toolchain::ensure(env)?;
    ui::step("apply the series", |_| series::sync(env, mutant))
}

pub fn jobs() -> String {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    format!("-j{cores}")
}

/// The text of `xtask/kernel/*.config`, one after the other: the last to name an option wins.
pub fn fragment(env: &Env, names: &[&str]) -> Result<String> {
    let path = |name| env.repo.join(format!("xtask/kernel/{name}.config"));
    let read = |name| fs::read_to_string(path(name)).context("cannot read a configuration");
    names.iter().map(read).collect()
}

/// A directory that a kernel is built in, and the source that the kernel is built from.
pub struct Build<'a> {
    pub env: &'a Env,
    pub source: PathBuf,
    pub dir: PathBuf,
    /// Arguments of every make.
    pub args: &'static [&'static str],
}

impl<'a> Build<'a> {
    pub fn named(env: &'a Env, name: &str) -> Self {
        Self { env, source: env.linux(), dir: env.dir(&format!("build/{name}")), args: &[] }
    }

    pub fn of(env: &'a Env, flavour: Flavour) -> Self {
        Self::named(env, &flavour.name())
    }

    pub fn user_mode(env: &'a Env, name: &str) -> Self {
        Self { args: &["ARCH=um", "-s"], ..Self::named(env, name) }
    }

    pub fn make(&self, args: &[&str], log: &str, step: &ui::Step) -> Result<()> {
        let mut make = self.env.tool_in(&self.source, "make", &[]);
        make.args(["LLVM=1", "CC=ccache clang", &jobs(), &format!("O={}", self.dir.display())]);
        make.args(self.args).args(args);
        ui::run_logged(&mut make, &self.env.log(log), step)
    }

    /// Writes `.config`: allnoconfig with the options of `fragment`. An option that this kernel does
    /// not have is an error.
    pub fn configure(&self, fragment: &str, step: &ui::Step) -> Result<()> {
        self.configure_what_is_there(fragment, step)?;
        let lost = lost(fragment, &fs::read_to_string(self.dir.join(".config"))?);
        if !lost.is_empty() {
            let (file, lost) = (self.dir.join("fragment.config"), lost.join("\n"));
            let file = file.display();
            bail!("{file} asks for options that are not here or lack a dependency:\n{lost}");
        }
        Ok(())
    }

    /// Writes `.config` like `configure()`, but leaves out options that this kernel does not have.
    pub fn configure_what_is_there(&self, fragment: &str, step: &ui::Step) -> Result<()> {
        let stamp = self.dir.join("fragment.config");
        if stamped(&stamp, fragment) && self.dir.join(".config").exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        remove_all(&stamp)?;
        let partial = stamp.with_extension("partial");
        fs::write(&partial, fragment)?;
        let all = format!("KCONFIG_ALLCONFIG={}", partial.display());
        self.make(&[&all, "allnoconfig"], "config", step)?;
        Ok(fs::rename(partial, stamp)?)
    }

    /// Builds the modules of `source` in a copy, so that the source stays clean.
    fn module(&self, source: &Path, copy: &Path, step: &ui::Step) -> Result<()> {
        fs::create_dir_all(copy)?;
        ui::output(Command::new("cp").arg("-rupT").args([source, copy]))?;
        let directory = format!("M={}", copy.display());
        self.make(&[&directory, "modules"], "module", step)
    }
}

/// The options that a configuration sets. The last value of an option counts.
fn options(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter(|line| line.starts_with("CONFIG_"));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// The options of a fragment that a configuration does not have as they were asked for.
fn lost(fragment: &str, config: &str) -> Vec<String> {
    let (wanted, config) = (options(fragment), options(config));
    let lost = |(name, value): (&str, &str)| {
        let has = config.get(name).copied().unwrap_or("n");
        (has != value).then(|| format!("{name}={value} (it is {has})"))
    };
    wanted.into_iter().filter_map(lost).collect()
}

/// Builds kernel and modules of a flavour if anything changed.
pub fn kernel(env: &Env, flavour: Flavour) -> Result<Kernel> {
    kernel_with(env, flavour, None)
}

/// Builds like `kernel()`, with a seeded bug if `mutant` names a directory of `xtask/mutants/`.
pub fn kernel_with(env: &Env, flavour: Flavour, mutant: Option<&Path>) -> Result<Kernel> {
    let commit = prepare_with(env, mutant)?;
    let build = Build::of(env, flavour);
    let name = flavour.name();
    let modroot = env.dir(&format!("modules/{name}"));
    let configs = ["plain", &name];
    let count = if flavour == Flavour::Plain { 1 } else { 2 };
    let fragment = fragment(env, &configs[..count])?;
    let stamp = build.dir.join("blkfilter-built");
    let want = format!("{commit}\n{fragment}");
    let kernel = Kernel {
        image: build.dir.join("arch/x86/boot/bzImage"),
        modules: modroot.join("lib/modules"),
        commit,
    };
    if stamped(&stamp, &want) && kernel.image.exists() && kernel.modules.exists() {
        return Ok(kernel);
    }
    ui::step(&format!("build the {name} kernel"), |step| {
        build.configure(&fragment, step)?;
        build.make(&["bzImage", "modules"], &format!("build-{name}"), step)
    })?;
    ui::step(&format!("install the {name} modules"), |step| {
        remove_all(&modroot)?;
        let path = format!("INSTALL_MOD_PATH={}", modroot.display());
        build.make(&[&path, "modules_install"], "modules_install", step)
    })?;
    fs::write(stamp, want)?;
    Ok(kernel)
}

/// Bytes of code and of constant data in a kernel, as `size` counts them.
pub fn text_size(env: &Env, flavour: Flavour) -> Result<i64> {
    let vmlinux = Build::of(env, flavour).dir.join("vmlinux");
    let out = ui::output(env.tool("llvm-size").arg(vmlinux))?;
    // The first line has six titles, and the second one starts with the size of the text.
    let number = out.split_whitespace().nth(6);
    Ok(number.context("llvm-size printed no size")?.parse()?)
}

/// A second work tree, at a commit.
pub fn worktree(env: &Env, name: &str, commit: &str) -> Result<PathBuf> {
    let tree = env.dir(name);
    if !tree.join("Makefile").exists() {
        remove_all(&tree)?;
        let add = "worktree add -q --force --detach";
        ui::output(env.git().args(add.split(' ')).arg(&tree).arg(commit))?;
    } else {
        // A killed run may have left this lock. No other run works here: `Env::lock()`.
        let name = tree.file_name().expect("a directory of the cache");
        let admin = env.linux().join(".git/worktrees").join(name);
        remove_all(&admin.join("index.lock"))?;
        ui::output(env.git().arg("-C").arg(&tree).args(["checkout", "-q", "--detach", commit]))?;
    }
    Ok(tree)
}

/// Builds the selftests for a kernel and installs them with the kselftest runner.
pub fn selftests(env: &Env, flavour: Flavour, kernel: &Kernel) -> Result<PathBuf> {
    let build = Build::of(env, flavour);
    let install = env.dir(&format!("selftests/{}", flavour.name()));
    let stamp = install.join("blkfilter-built");
    if stamped(&stamp, &kernel.commit) {
        return Ok(install);
    }
    ui::step(&format!("build the {} selftests", flavour.name()), |step| {
        remove_all(&install)?;
        // Objects of another flavour's build would be in the way.
        ui::output(env.git().args("clean -q -x -f --".split(' ')).arg(MODULES))?;
        let kernel = format!("KDIR={}", build.dir.display());
        let path = format!("INSTALL_PATH={}", install.display());
        let tests = ["-C", "tools/testing/selftests", "TARGETS=blkfilter"];
        build.make(&[&tests[..], &[&kernel, &path, "install"]].concat(), "selftests", step)
    })?;
    let module = install.join("blkfilter/test_modules/blkfilter_bench.ko");
    if !module.exists() {
        bail!("the selftests' module was not built, see {}", env.log("selftests").display());
    }
    fs::write(stamp, &kernel.commit)?;
    Ok(install)
}

/// Builds a filter that lives outside of the tree; the modules it made.
fn module(env: &Env, flavour: Flavour, source: &Path) -> Result<Vec<PathBuf>> {
    let source = canonical(source, "directory")?;
    if !source.join("Kbuild").exists() && !source.join("Makefile").exists() {
        bail!("{} has no Kbuild: one line does, `obj-m := my_filter.o`", source.display());
    }
    kernel(env, flavour)?;
    let copy = env.cache.join(format!("module{}", short_name(&source)));
    ui::step(&format!("build {}", source.display()), |step| {
        Build::of(env, flavour).module(&source, &copy, step)
    })?;
    let modules = names_in(&copy)?.into_iter().filter(|name| name.ends_with(".ko"));
    let modules: Vec<PathBuf> = modules.map(|name| copy.join(name)).collect();
    if modules.is_empty() {
        bail!("no module came out of {}", source.display());
    }
    let large = large_frames(env, &modules)?;
    if !large.is_empty() {
        let large = large.join("\n");
        bail!(
            "a kernel stack has 16 KiB; build the state in place, see BlkFilter::attach:\n{large}"
        );
    }
    Ok(modules)
}

/// The largest frame of a function that CONFIG_FRAME_WARN would let pass: rustc does not look.
const FRAME_WARN: &str = "2048";

/// The functions of modules that need more stack than they should, each with its module and size.
pub fn large_frames(env: &Env, modules: &[PathBuf]) -> Result<Vec<String>> {
    let mut large = Vec::new();
    for module in modules {
        let script = "objdump -dC \"$1\" | scripts/checkstack.pl x86_64 $2";
        let mut shell = env.tool_in(&env.linux(), "sh", &[]);
        let out = shell.args(["-c", script, "sh"]).arg(module).arg(FRAME_WARN).output()?;
        if !out.status.success() {
            bail!("checkstack.pl: {}", String::from_utf8_lossy(&out.stderr));
        }
        large.extend(String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned));
    }
    Ok(large)
}

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "plain")]
    flavour: Flavour,
    /// Directory of a filter: its source and a Kbuild.
    #[arg(long, value_name = "DIR")]
    module: Option<PathBuf>,
}

pub fn run(env: &Env, options: &Options) -> Result<i32> {
    let built = match &options.module {
        Some(source) => module(env, options.flavour, source)?,
        None => kernel(env, options.flavour).map(|kernel| vec![kernel.image, kernel.modules])?,
    };
    for path in built {
        println!("{}", path.display());
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_options_are_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_S=\"x\"\n";
        for (fragment, named) in [
            ("CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=m\nCONFIG_S=\"x\"\n", &[][..]),
            ("CONFIG_D=y\nCONFIG_C=y\n", &["CONFIG_C=y (it is m)", "CONFIG_D=y (it is n)"]),
            // The last one counts: debug.config may overrule plain.config.
            ("CONFIG_A=n\nCONFIG_A=y\n", &[]),
        ] {
            assert_eq!(lost(fragment, config), named);
        }
    }
}
