// SPDX-License-Identifier: GPL-2.0

//! A block device filter that counts what goes to a disk in use.
//!
//! ```sh
//! modprobe rust_blkfilter
//! echo rust_blkfilter > /sys/block/vda/filter
//! cat /sys/kernel/debug/rust_blkfilter/vda/stats
//! ```
//!
//! The lines are: operation, bios, bytes. To leave the disk alone again:
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
            IncomingBio,
            Verdict, //
        }, //
    },
    debugfs::{
        Dir,
        Scope, //
    },
    module::this_module,
    module_blk_filter,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

module_blk_filter! {
    type: RustBlkFilter,
    data: Dir::of_module(c"rust_blkfilter", this_module::<crate::LocalModule>()),
    name: "rust_blkfilter",
    authors: ["blkfilter developers"],
    description: "Block device filter sample: count bios",
    license: "GPL",
    alias: ["blkfilter-rust_blkfilter"],
}

/// Bios and bytes, by the number of their operation.
type Counts = [[Atomic<u64>; 2]; Op::LIMIT];

fn show(counts: &Counts, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
    Op::NAMED.iter().try_for_each(|op| {
        let [bios, bytes] = counts[op.as_index()].each_ref().map(|n| n.load(Relaxed));
        f.write_fmt(fmt!("{op} {bios} {bytes}\n"))
    })
}

/// The filter on one device.
#[pin_data]
struct RustBlkFilter {
    #[pin]
    counts: Scope<Counts>,
}

#[vtable]
impl BlkFilter for RustBlkFilter {
    const NAME: &'static CStr = c"rust_blkfilter";
    type RegistrationData = Dir;

    fn attach(info: AttachInfo<'_>, debugfs: &Dir) -> impl PinInit<Self, Error> {
        // Built where it stays: a kernel stack has 16 KiB.
        let none = pin_init::init_array_from_fn(|_| [Atomic::new(0), Atomic::new(0)]);
        try_pin_init!(Self {
            counts <- debugfs.scope(none, info.device_name(), |counts, dir|
                dir.read_callback_file(c"stats", counts, &show)),
        })
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        let [bios, bytes] = &this.get_ref().counts[bio.op().as_index()];
        bios.add(1, Relaxed);
        bytes.add(bio.size().into(), Relaxed);
        bio.pass()
    }
}
