// SPDX-License-Identifier: GPL-2.0

//! A block device filter that counts bios, and fails writes on request.
//!
//! To see the I/O of a disk that is in use:
//!
//! ```sh
//! modprobe rust_blkfilter
//! echo rust_blkfilter > /sys/block/vda/filter
//! cat /sys/kernel/debug/rust_blkfilter/vda/stats
//! ```
//!
//! To make all that would change its data fail with "No space left on device" (28), and stop that:
//!
//! ```sh
//! echo 28 > /sys/kernel/debug/rust_blkfilter/vda/fail_writes
//! echo 0 > /sys/kernel/debug/rust_blkfilter/vda/fail_writes
//! ```
//!
//! To leave the disk alone again:
//!
//! ```sh
//! echo none > /sys/block/vda/filter
//! ```

use kernel::{
    block::{
        bio::Op,
        filter::{
            AttachInfo,
            BlkFilter,
            FilteredBio,
            IncomingBio,
            Registration,
            Verdict, //
        }, //
    },
    debugfs::{
        Dir,
        File, //
    },
    error::Error,
    fmt,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    uaccess::UserSliceReader, //
};

module! {
    type: RustBlkFilterModule,
    name: "rust_blkfilter",
    authors: ["blkfilter developers"],
    description: "Block device filter sample: count bios, fail writes",
    license: "GPL",
    alias: ["blkfilter-rust_blkfilter"],
}

#[pin_data]
struct RustBlkFilterModule {
    #[pin]
    _registration: Registration<RustBlkFilter>,
}

impl kernel::InPlaceModule for RustBlkFilterModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _registration <- Registration::new(Ok(Dir::new(c"rust_blkfilter"))),
        })
    }
}

/// The bios of one operation.
struct Counter {
    bios: Atomic<u64>,
    bytes: Atomic<u64>,
}

/// What is counted apart, and under which name it is shown.
const KINDS: [&str; 7] = [
    "read",
    "write",
    "discard",
    "secure_erase",
    "write_zeroes",
    "flush",
    "other",
];

/// A counter for each of [`KINDS`].
struct Stats([Counter; KINDS.len()]);

impl Stats {
    fn new() -> Self {
        Self(core::array::from_fn(|_| Counter {
            bios: Atomic::new(0),
            bytes: Atomic::new(0),
        }))
    }

    fn count(&self, bio: &FilteredBio) {
        let kind = match bio.op() {
            Op::READ => 0,
            Op::WRITE if bio.is_flush() => 5,
            Op::WRITE => 1,
            Op::DISCARD => 2,
            Op::SECURE_ERASE => 3,
            Op::WRITE_ZEROES => 4,
            _ => 6,
        };
        self.0[kind].bios.add(1, Relaxed);
        self.0[kind].bytes.add(u64::from(bio.size()), Relaxed);
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, counter) in KINDS.iter().zip(&self.0) {
            let (bios, bytes) = (counter.bios.load(Relaxed), counter.bytes.load(Relaxed));
            writeln!(f, "{name} {bios} {bytes}")?;
        }
        Ok(())
    }
}

/// The filter on one device.
#[pin_data]
struct RustBlkFilter {
    #[pin]
    stats: File<Stats>,
    /// The error that writes end with, as a positive number; 0 for none.
    #[pin]
    fail_writes: File<Atomic<i32>>,
    _dir: Dir,
}

fn show_errno(errno: &Atomic<i32>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}", errno.load(Relaxed))
}

fn store_errno(errno: &Atomic<i32>, from: &mut UserSliceReader) -> Result {
    let mut text = [0; 8];
    let text = text.get_mut(..from.len()).ok_or(EINVAL)?;
    from.read_slice(text)?;
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    let number = text.trim().parse::<u16>().map_err(|_| EINVAL)?;
    if number > 133 {
        // There is no such error.
        return Err(EINVAL);
    }
    errno.store(number.into(), Relaxed);
    Ok(())
}

#[vtable]
impl BlkFilter for RustBlkFilter {
    const NAME: &'static CStr = c"rust_blkfilter";
    type RegistrationData = Dir;

    fn attach(info: AttachInfo<'_>, debugfs: &Dir) -> impl PinInit<Self, Error> {
        let dir = debugfs.subdir(info.device_name());

        try_pin_init!(Self {
            stats <- dir.read_callback_file(c"stats", Stats::new(), &Stats::show),
            fail_writes <- dir.read_write_callback_file(
                c"fail_writes",
                Atomic::new(0),
                &show_errno,
                &store_errno,
            ),
            _dir: dir,
        })
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        this.stats.count(&bio);

        let errno = this.fail_writes.load(Relaxed);
        if errno != 0 && bio.op().changes_data() && !bio.is_flush() {
            return bio.end(Error::from_errno(-errno).into());
        }
        bio.pass()
    }
}
