// SPDX-License-Identifier: GPL-2.0

//! The same filters as in `blkfilter_twins_c.c`, in Rust: what they do and what that costs can be
//! compared.
//!
//! `/sys/kernel/debug/blkfilter_twins_rust/stats` has what `rust_count` and `rust_hook` counted.

use kernel::{
    block::{
        bio::{
            BlkStatus,
            Op, //
        },
        filter::{
            AttachInfo,
            BlkFilter,
            CompletedBio,
            Context,
            EndIo,
            IncomingBio,
            OwnedBio,
            Registration,
            Verdict, //
        }, //
    },
    debugfs::{
        Dir,
        File, //
    },
    fmt,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

module! {
    type: Twins,
    name: "blkfilter_twins_rust",
    authors: ["blkfilter developers"],
    description: "Block device filters to be compared, in Rust",
    license: "GPL",
}

struct Stats {
    bios: [Atomic<u64>; 3],
    bytes: [Atomic<u64>; 3],
    completed: Atomic<u64>,
}

static STATS: Stats = Stats {
    bios: [Atomic::new(0), Atomic::new(0), Atomic::new(0)],
    bytes: [Atomic::new(0), Atomic::new(0), Atomic::new(0)],
    completed: Atomic::new(0),
};

fn show((): &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, name) in ["read", "write", "other"].iter().enumerate() {
        let (bios, bytes) = (STATS.bios[i].load(Relaxed), STATS.bytes[i].load(Relaxed));
        writeln!(f, "{name} {bios} {bytes}")?;
    }
    writeln!(f, "completed {}", STATS.completed.load(Relaxed))
}

struct Pass;

#[vtable]
impl BlkFilter for Pass {
    const NAME: &'static CStr = c"rust_pass";
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Ok(Pass)
    }

    fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }
}

struct Count;

#[vtable]
impl BlkFilter for Count {
    const NAME: &'static CStr = c"rust_count";
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Ok(Count)
    }

    fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        let kind = match bio.op() {
            Op::READ => 0,
            Op::WRITE => 1,
            _ => 2,
        };
        STATS.bios[kind].add(1, Relaxed);
        STATS.bytes[kind].add(u64::from(bio.size()), Relaxed);
        bio.pass()
    }
}

struct Defer;

#[vtable]
impl BlkFilter for Defer {
    const NAME: &'static CStr = c"rust_defer";
    const TAKES: bool = true;
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Ok(Defer)
    }

    fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.defer().unwrap_or_else(IncomingBio::pass)
    }

    fn process<'a>(_this: Pin<&'a Self>, _cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        bio.resubmit();
    }
}

struct Hook;

#[vtable]
impl BlkFilter for Hook {
    const NAME: &'static CStr = c"rust_hook";
    const ARMS: bool = true;
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Ok(Hook)
    }

    fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass_armed(()).unwrap_or_else(|(bio, ())| bio.pass())
    }
}

impl EndIo for Hook {
    type Data = ();

    fn end_io(_this: Pin<&Self>, bio: CompletedBio<'_>, (): ()) {
        if bio.status() == BlkStatus::OK {
            STATS.completed.add(1, Relaxed);
        }
    }
}

#[pin_data]
struct Twins {
    #[pin]
    _pass: Registration<Pass>,
    #[pin]
    _count: Registration<Count>,
    #[pin]
    _defer: Registration<Defer>,
    #[pin]
    _hook: Registration<Hook>,
    #[pin]
    _file: File<()>,
}

impl kernel::InPlaceModule for Twins {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _pass <- Registration::new(Ok(())),
            _count <- Registration::new(Ok(())),
            _defer <- Registration::new(Ok(())),
            _hook <- Registration::new(Ok(())),
            _file <- Dir::new(c"blkfilter_twins_rust").read_callback_file(c"stats", (), &show),
        })
    }
}
