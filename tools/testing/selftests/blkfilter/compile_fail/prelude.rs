// SPDX-License-Identifier: GPL-2.0
//! What each of the other files starts with: a module with two filters that are fine.
#![allow(dead_code, missing_docs, unreachable_code, unused_imports, unused_variables)]
#![deny(unused_must_use)]
use core::cell::Cell;
use kernel::{
    block::{bdev::*, bio::*, filter::*},
    new_spinlock,
    page::AsPageIter,
    prelude::*,
    sync::{Arc, Mutex, SpinLock},
};

module! {
    type: Module,
    name: "snippet",
    authors: ["blkfilter developers"],
    description: "Misuse",
    license: "GPL",
}

struct Module;

impl kernel::Module for Module {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Module)
    }
}

struct Good {
    count: u64,
    file: BdevFile,
    target: Target,
    bios: SpinLock<BioList<Good>>,
    pool: Pin<KBox<BioSet>>,
}

#[vtable]
impl BlkFilter for Good {
    const NAME: &'static CStr = c"good";
    const TAKES: bool = true;
    const ARMS: bool = true;
    const SAVES: bool = true;
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Err::<Self, _>(ENXIO)
    }

    fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }

    fn process<'a>(_this: Pin<&'a Self>, _cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        bio.resubmit();
    }
}

struct Other;

#[vtable]
impl BlkFilter for Other {
    const NAME: &'static CStr = c"other";
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Err::<Self, _>(ENXIO)
    }

    fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }
}

type Incoming<'cb> = IncomingBio<'cb, Good>;
type Owned = OwnedBio<Good>;

fn needs_send<T: Send>(_: T) {}
fn needs_static<T: 'static>(_: T) {}
