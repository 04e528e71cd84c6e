// SPDX-License-Identifier: GPL-2.0

//! A block device filter in Rust that does what it should not, if it is told so when it is
//! attached:
//!
//! - `mode=sleep`: sleeps in `submit_bio`, if it comes to that.
//! - `mode=drop`: takes each bio, and drops it.
//! - `mode=defer`: defers each bio, which is fine.
//! - `mode=keep`: takes each bio, and keeps it until it is detached.
//! - `mode=read`: reads all data that is being written, which others may change meanwhile, and
//!   refuses it if it is nothing but zeroes.
//!
//! Its state has in it what may only be dropped where sleeping is fine.

use kernel::{
    block::{
        bio::BlkStatus,
        filter::{
            AttachInfo,
            BioList,
            BlkFilter,
            Context,
            FilteredBio,
            IncomingBio,
            OwnedBio,
            Registration,
            Verdict, //
        }, //
    },
    new_mutex,
    new_spinlock,
    new_srcu,
    prelude::*,
    sync::{
        Mutex,
        SpinLock,
        Srcu, //
    },
    task::might_sleep, //
};

module! {
    type: TestModule,
    name: "blkfilter_rust",
    authors: ["blkfilter developers"],
    description: "Block device filter for the selftests, in Rust",
    license: "GPL",
}

#[pin_data]
struct TestModule {
    #[pin]
    _registration: Registration<TestFilter>,
}

impl kernel::InPlaceModule for TestModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _registration <- Registration::new(Ok(())),
        })
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Sleep,
    Drop,
    Defer,
    Keep,
    Read,
}

#[pin_data]
struct TestFilter {
    mode: Mode,
    #[pin]
    kept: SpinLock<BioList<TestFilter>>,
    #[pin]
    processed: Mutex<u64>,
    #[pin]
    srcu: Srcu,
}

impl TestFilter {
    fn pop(&self) -> Option<OwnedBio<Self>> {
        self.kept.lock().pop()
    }
}

fn only_zeroes(bio: &FilteredBio) -> bool {
    let Some(data) = bio.data() else {
        return false;
    };
    let mut buffer = [0; 64];
    (0..data.len()).step_by(buffer.len()).all(|offset| {
        let buffer = &mut buffer[..(data.len() - offset).min(64)];
        data.read(offset, buffer).is_ok() && buffer.iter().all(|byte| *byte == 0)
    })
}

#[vtable]
impl BlkFilter for TestFilter {
    const NAME: &'static CStr = c"blkfilter_rust";
    const OPTIONS: bool = true;
    const TAKES: bool = true;
    type RegistrationData = ();

    fn attach(info: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        let mut mode = Err(EINVAL);
        let parsed = info.parse_options(|key, value| {
            mode = match (key, value) {
                ("mode", "sleep") => Ok(Mode::Sleep),
                ("mode", "drop") => Ok(Mode::Drop),
                ("mode", "defer") => Ok(Mode::Defer),
                ("mode", "keep") => Ok(Mode::Keep),
                ("mode", "read") => Ok(Mode::Read),
                _ => return Err(EINVAL),
            };
            Ok(())
        });

        try_pin_init!(Self {
            mode: parsed.and(mode)?,
            kept <- new_spinlock!(BioList::new()),
            processed <- new_mutex!(0),
            srcu <- new_srcu!(),
        })
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        match this.mode {
            Mode::Sleep => {
                might_sleep();
                bio.pass()
            }
            Mode::Defer => bio.defer().unwrap_or_else(IncomingBio::pass),
            Mode::Drop => match bio.take() {
                Ok((_dropped, verdict)) => verdict,
                Err(bio) => bio.pass(),
            },
            Mode::Read if only_zeroes(&bio) => bio.end(BlkStatus::IOERR),
            Mode::Read => bio.pass(),
            Mode::Keep => match bio.take() {
                Ok((owned, verdict)) => {
                    let other = this.get_ref().kept.lock().push(owned);
                    if let Err(owned) = other {
                        owned.resubmit();
                    }
                    verdict
                }
                Err(bio) => bio.pass(),
            },
        }
    }

    fn process<'a>(this: Pin<&'a Self>, _cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        *this.get_ref().processed.lock() += 1;
        bio.resubmit();
    }

    fn let_go(this: Pin<&Self>) {
        while let Some(bio) = this.pop() {
            bio.resubmit();
        }
    }
}
