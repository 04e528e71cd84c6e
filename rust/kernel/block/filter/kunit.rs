// SPDX-License-Identifier: GPL-2.0

//! KUnit tests, on a disk of their own that does nothing.

use super::*;
use crate::{
    block::{
        bdev::OpenMode,
        bio::{
            Op,
            ReqFlag,
            ReqFlags, //
        },
        mq::{
            self,
            gen_disk::{
                GenDisk,
                GenDiskBuilder, //
            },
            Request,
            TagSet, //
        },
        SECTOR_SIZE, //
    },
    new_spinlock,
    page::Page,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    time::delay::fsleep, //
};
use core::pin::pin;

/// A driver that ends each request at once.
struct Null;

#[vtable]
impl mq::Operations for Null {
    type QueueData = ();

    fn queue_rq(_: (), rq: ARef<Request<Self>>, _is_last: bool) -> Result {
        Request::end_ok(rq).map_err(|_| EIO)
    }

    fn commit_rqs(_: ()) {}

    fn complete(_rq: ARef<Request<Self>>) {}
}

/// A size that no other disk has.
const NR_SECTORS: u64 = 12344;

struct Disk {
    // Closed before the disk goes.
    file: BdevFile,
    _disk: GenDisk<Null>,
}

/// That of a second one.
const OTHER_SECTORS: u64 = 23456;

fn new_disk() -> Result<Disk> {
    new_disk_of(NR_SECTORS)
}

fn new_disk_of(nr_sectors: u64) -> Result<Disk> {
    let tags = Arc::pin_init(TagSet::new(1, 16, 1), GFP_KERNEL)?;
    let disk = GenDiskBuilder::new()
        .logical_block_size(512)?
        .capacity_sectors(nr_sectors)
        .build(fmt!("rust_kunit{nr_sectors}"), tags, ())?;
    // It has no fixed number: it is one of those that are given out as they are needed.
    let major = bindings::BLOCK_EXT_MAJOR << bindings::MINORBITS;
    let file = (0..64)
        .filter_map(|minor| BdevFile::open_dev(major | minor, OpenMode::ReadWrite).ok())
        .find(|file| file.nr_sectors() == nr_sectors)
        .ok_or(ENXIO)?;
    Ok(Disk { file, _disk: disk })
}

/// Reads or writes, with a bio on the stack; the result and the data.
fn rw(disk: &Disk, op: Op, sector: u64) -> (Result, KBox<[u8; 1024]>) {
    let mut data = KBox::new([0x55; 1024], GFP_KERNEL).expect("no memory for the test");
    // SAFETY: The device is open, and the data is valid until this returns.
    let ret = unsafe {
        bindings::bdev_rw_virt(
            disk.file.as_raw(),
            sector,
            data.as_mut_ptr().cast(),
            data.len(),
            op.as_raw(),
        )
    };
    (to_result(ret), data)
}

/// A read that is under way, into a page of its own.
struct Read {
    bio: Opaque<bindings::bio>,
    vec: Opaque<bindings::bio_vec>,
    page: Page,
    ended: Atomic<u32>,
}

fn start_read(disk: &Disk, sector: u64) -> Result<Pin<KBox<Read>>> {
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // SAFETY: See below.
        let read = unsafe { &*(*bio).bi_private.cast::<Read>() };
        read.ended.add(1, Relaxed);
    }

    let read = KBox::pin(
        Read {
            bio: Opaque::uninit(),
            vec: Opaque::uninit(),
            page: Page::alloc_page(GFP_KERNEL)?,
            ended: Atomic::new(0),
        },
        GFP_KERNEL,
    )?;
    let bio = read.bio.get();
    // SAFETY: All of it is in the same pinned allocation, which the test keeps until it has ended.
    unsafe {
        bindings::bio_init(
            bio,
            disk.file.as_raw(),
            read.vec.get(),
            1,
            Op::READ.as_raw(),
        );
        bindings::__bio_add_page(bio, read.page.as_ptr(), SECTOR_SIZE, 0);
        (*bio).bi_iter.bi_sector = sector;
        (*bio).bi_end_io = Some(end_io);
        (*bio).bi_private = core::ptr::from_ref(&*read).cast_mut().cast();
        bindings::submit_bio(bio);
    }
    Ok(read)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    End,
    Drop,
    Fill,
    Keep,
    Resubmit,
    Defer,
    Own,
    Arm,
    Retarget,
    RetargetLater,
    Remap,
    RemapLater,
    KeepLate,
}

/// What the filter shall do, and what happened.
struct Script {
    mode: Mode,
    /// Where a bio goes that is retargeted, a number of a device, or remapped, a sector.
    to: Atomic<u64>,
    seen: Atomic<u32>,
    sector: Atomic<u64>,
    processed: Atomic<u32>,
    first_byte: Atomic<u32>,
    completed: Atomic<u32>,
    detached: Atomic<u32>,
    dropped: Atomic<u32>,
}

fn script(mode: Mode) -> Result<Arc<Script>> {
    Ok(Arc::new(
        Script {
            mode,
            to: Atomic::new(0),
            seen: Atomic::new(0),
            sector: Atomic::new(0),
            processed: Atomic::new(0),
            first_byte: Atomic::new(0),
            completed: Atomic::new(0),
            detached: Atomic::new(0),
            dropped: Atomic::new(0),
        },
        GFP_KERNEL,
    )?)
}

#[pin_data(PinnedDrop)]
struct Tester {
    script: Arc<Script>,
    #[pin]
    kept: SpinLock<BioList<Tester>>,
    #[pin]
    pool: BioSet,
    target: Option<Target>,
}

#[pinned_drop]
impl PinnedDrop for Tester {
    fn drop(self: Pin<&mut Self>) {
        self.script.dropped.add(1, Relaxed);
    }
}

#[vtable]
impl BlkFilter for Tester {
    const NAME: &'static CStr = c"rust_kunit";
    const OPTIONS: bool = true;
    const TAKES: bool = true;
    const ARMS: bool = true;
    const SAVES: bool = true;
    type RegistrationData = Arc<Script>;

    fn attach(info: AttachInfo<'_>, script: &Arc<Script>) -> impl PinInit<Self, Error> {
        let script = script.clone();
        let target = match script.mode {
            Mode::Retarget | Mode::RetargetLater => {
                BdevFile::open_dev(script.to.load(Relaxed) as u32, OpenMode::ReadWrite)
                    .and_then(|file| info.target(file))
                    .map(Some)
            }
            _ => Ok(None),
        };
        let parsed = info.parse_options(|key, value| match (key, value) {
            ("fail", "no") => Ok(()),
            ("fail", "yes") => Err(EDOM),
            _ => Err(EINVAL),
        });

        pin_init::pin_init_scope(move || {
            parsed?;
            let target = target?;
            Ok(try_pin_init!(Self {
                script,
                kept <- new_spinlock!(BioList::new()),
                pool <- BioSet::new(2),
                target,
            }))
        })
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, mut bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        let this = this.get_ref();
        let script = &this.script;
        script.seen.add(1, Relaxed);
        script.sector.store(bio.sector(), Relaxed);
        match script.mode {
            Mode::Pass => return bio.pass(),
            Mode::End => return bio.end(BlkStatus::NOSPC),
            Mode::Defer | Mode::Own | Mode::RetargetLater | Mode::RemapLater | Mode::KeepLate => {
                return bio.defer().unwrap_or_else(IncomingBio::pass);
            }
            Mode::Arm => {
                return bio
                    .pass_armed([7, 9])
                    .unwrap_or_else(|(bio, _)| bio.end(BlkStatus::RESOURCE));
            }
            Mode::Retarget => {
                let sector = bio.sector();
                return match &this.target {
                    Some(target) => bio.retarget(target, sector),
                    None => Err(bio),
                }
                .unwrap_or_else(|bio| bio.end(BlkStatus::RESOURCE));
            }
            Mode::Remap => {
                return bio
                    .remap(script.to.load(Relaxed))
                    .unwrap_or_else(|bio| bio.end(BlkStatus::RESOURCE));
            }
            Mode::Drop | Mode::Fill | Mode::Keep | Mode::Resubmit => {}
        }
        if let Some(data) = bio.data() {
            let mut first = [0];
            let _ = data.read(0, &mut first);
            script.first_byte.store(first[0].into(), Relaxed);
        }
        let (owned, verdict) = match bio.take() {
            Ok(taken) => taken,
            Err(untaken) => {
                bio = untaken;
                return bio.pass();
            }
        };
        match script.mode {
            Mode::Drop => drop(owned),
            Mode::Keep => this.keep(owned),
            Mode::Fill => match owned.fill() {
                Ok(mut filled) => {
                    let status = filled.data().write(512, &[0xaa; 512]).into();
                    filled.end(status);
                }
                Err(owned) => owned.end(BlkStatus::IOERR),
            },
            _ => owned.resubmit(),
        }
        verdict
    }

    fn process<'a>(this: Pin<&'a Self>, cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        let this = this.get_ref();
        this.script.processed.add(1, Relaxed);
        match this.script.mode {
            Mode::Own => {
                let own_with = |op, flags, sector, sizes: [usize; 2]| {
                    let mut pages = [BioPage::new(GFP_KERNEL)?, BioPage::new(GFP_KERNEL)?];
                    let mut own = NewBio::new(&this.pool, op, flags, sector, 2, GFP_KERNEL)?;
                    for (page, size) in pages.iter_mut().zip(sizes) {
                        if size != 0 {
                            own.add_page(page, 0, size)?;
                        }
                    }
                    cx.submit_and_wait(&bio, own)
                };
                let own = |op, sector, size| own_with(op, ReqFlags::default(), sector, [size, 0]);
                let bad = [
                    own(Op::READ, NR_SECTORS, 512),
                    own(Op::READ, NR_SECTORS - 1, 1024),
                    own(Op::READ, u64::MAX, 512),
                    own(Op::READ, 0, 1000),
                    own(Op::READ, 0, 0),
                    own(Op::DISCARD, 0, 0),
                    // Half a block in each of two pages.
                    own_with(Op::READ, ReqFlags::default(), 0, [256, 256]),
                    own_with(Op::READ, ReqFlag::Preflush.into(), 0, [512, 0]),
                    own_with(Op::READ, ReqFlag::Fua.into(), 0, [512, 0]),
                ];
                let good = own(Op::READ, 0, 4096) == Ok(())
                    && own(Op::WRITE, NR_SECTORS - 1, 512) == Ok(())
                    && bad.iter().all(|result| *result == Err(EINVAL));
                bio.end(if good {
                    BlkStatus::OK
                } else {
                    BlkStatus::IOERR
                });
            }
            Mode::RetargetLater => {
                let sector = bio.sector();
                if let Some(target) = &this.target {
                    let _ = bio.retarget(cx, target, sector);
                }
            }
            Mode::RemapLater => {
                let _ = bio.remap(this.script.to.load(Relaxed));
            }
            Mode::KeepLate => {
                // A minute, but for the detach.
                assert!(!cx.sleep(Delta::from_secs(60)));
                this.keep(bio);
            }
            _ => bio.resubmit(),
        }
    }

    fn let_go(this: Pin<&Self>) {
        while let Some(bio) = this.release_one() {
            bio.resubmit();
        }
    }

    fn detached<'a>(this: Pin<&'a Self>, cx: &DetachedContext<'a, Self>, reason: DetachReason) {
        let this = this.get_ref();
        let own = || {
            let mut page = BioPage::new(GFP_KERNEL)?;
            let mut own =
                NewBio::new(&this.pool, Op::WRITE, ReqFlags::default(), 0, 1, GFP_KERNEL)?;
            own.add_page(&mut page, 0, 512)?;
            cx.submit_and_wait(own)
        };
        let want = match reason {
            DetachReason::Detached => Ok(()),
            DetachReason::Removed => Err(ENODEV),
        };
        assert_eq!(own(), want);
        if reason == DetachReason::Detached {
            this.script.detached.add(1, Relaxed);
        }
    }
}

impl Tester {
    fn keep(&self, bio: OwnedBio<Self>) {
        let other = self.kept.lock().push(bio);
        assert!(other.is_ok());
    }

    /// The first of the bios that were kept. Not with the lock held: it may be the last bio.
    fn release_one(&self) -> Option<OwnedBio<Self>> {
        self.kept.lock().pop()
    }
}

impl EndIo for Tester {
    type Data = [u64; 2];

    fn end_io(this: Pin<&Self>, mut bio: CompletedBio<'_>, data: [u64; 2]) {
        let good = data == [7, 9] && bio.status() == BlkStatus::OK && bio.size() == 1024;
        if good {
            this.script.completed.add(1, Relaxed);
        }
        this.script.sector.store(bio.sector(), Relaxed);
        match bio.data_mut() {
            Some(mut data) => {
                let _ = data.write(1020, &[1, 2, 3, 4]);
            }
            None => bio.set_status(BlkStatus::PROTECTION),
        }
    }
}

/// Attaches, does something, detaches; what happened.
fn with<R>(mode: Mode, f: impl FnOnce(&Disk, &Script) -> R) -> Result<R> {
    let (disk, script) = (new_disk()?, script(mode)?);
    let attached = Attachment::<Tester>::new(&disk.file, &script, None)?;
    let result = f(&disk, &script);
    drop(attached);
    assert_eq!(script.detached.load(Relaxed), 1);
    assert_eq!(script.dropped.load(Relaxed), 1);
    Ok(result)
}

#[macros::kunit_tests(rust_blk_filter)]
mod tests {
    use super::*;

    #[test]
    fn a_bio_passes() -> Result {
        let (result, seen) = with(Mode::Pass, |disk, script| {
            let (result, _) = rw(disk, Op::READ, 8);
            (result, script.seen.load(Relaxed))
        })?;
        assert_eq!((result, seen), (Ok(()), 1));
        Ok(())
    }

    #[test]
    fn a_bio_ends_with_its_status() -> Result {
        let result = with(Mode::End, |disk, _| rw(disk, Op::WRITE, 8).0)?;
        assert_eq!(result, Err(ENOSPC));
        Ok(())
    }

    #[test]
    fn a_bio_that_is_dropped_fails() -> Result {
        let result = with(Mode::Drop, |disk, _| rw(disk, Op::WRITE, 8).0)?;
        assert_eq!(result, Err(EIO));
        Ok(())
    }

    #[test]
    fn a_read_is_filled_in() -> Result {
        let (result, data) = with(Mode::Fill, |disk, _| rw(disk, Op::READ, 8))?;
        assert_eq!(result, Ok(()));
        assert!(data[..512].iter().all(|b| *b == 0) && data[512..].iter().all(|b| *b == 0xaa));
        // A write is not.
        let (result, data) = with(Mode::Fill, |disk, _| rw(disk, Op::WRITE, 8))?;
        assert_eq!(result, Err(EIO));
        assert!(data.iter().all(|b| *b == 0x55));
        Ok(())
    }

    #[test]
    fn what_is_written_can_be_read() -> Result {
        let first = with(Mode::Resubmit, |disk, script| {
            let _ = rw(disk, Op::WRITE, 8);
            script.first_byte.load(Relaxed)
        })?;
        assert_eq!(first, 0x55);
        // What is to be read is not there yet.
        let first = with(Mode::Resubmit, |disk, script| {
            let _ = rw(disk, Op::READ, 8);
            script.first_byte.load(Relaxed)
        })?;
        assert_eq!(first, 0);
        Ok(())
    }

    #[test]
    fn a_bio_is_deferred() -> Result {
        let (result, processed) = with(Mode::Defer, |disk, script| {
            let (result, _) = rw(disk, Op::WRITE, 8);
            (result, script.processed.load(Relaxed))
        })?;
        assert_eq!((result, processed), (Ok(()), 1));
        Ok(())
    }

    #[test]
    fn own_io_goes_below() -> Result {
        let (result, seen) = with(Mode::Own, |disk, script| {
            let (result, _) = rw(disk, Op::WRITE, 8);
            (result, script.seen.load(Relaxed))
        })?;
        assert_eq!((result, seen), (Ok(()), 1));
        Ok(())
    }

    #[test]
    fn what_is_kept_waits_for_detach() -> Result {
        let reads = with(Mode::Keep, |disk, _| -> Result<_> {
            let reads = [start_read(disk, 8)?, start_read(disk, 16)?];
            let early = reads.iter().any(|read| read.ended.load(Relaxed) != 0);
            Ok((reads, early))
        })??;
        assert!(!reads.1);
        for read in &reads.0 {
            assert_eq!(read.ended.load(Relaxed), 1);
        }
        Ok(())
    }

    #[test]
    fn a_completion_is_hooked() -> Result {
        let (result, data, completed, sector) = with(Mode::Arm, |disk, script| {
            let (result, data) = rw(disk, Op::READ, 24);
            (
                result,
                data,
                script.completed.load(Relaxed),
                script.sector.load(Relaxed),
            )
        })?;
        assert_eq!((result, completed, sector), (Ok(()), 1, 24));
        assert_eq!(data[1019..], [0x55, 1, 2, 3, 4]);
        let result = with(Mode::Arm, |disk, _| rw(disk, Op::WRITE, 24).0)?;
        assert_eq!(result, Err(EILSEQ));
        Ok(())
    }

    #[test]
    fn a_bio_goes_elsewhere() -> Result {
        for mode in [Mode::Remap, Mode::RemapLater] {
            for (to, want) in [
                (40, Ok(())),
                (NR_SECTORS - 2, Ok(())),
                (NR_SECTORS - 1, Err(())),
                (u64::MAX, Err(())),
            ] {
                let (result, seen) = with(mode, |disk, script| {
                    script.to.store(to, Relaxed);
                    let (result, _) = rw(disk, Op::READ, 8);
                    (result, script.seen.load(Relaxed))
                })?;
                assert_eq!((result.map_err(|_| ()), seen), (want, 1));
            }
        }
        Ok(())
    }

    #[test]
    fn a_bio_goes_to_another_disk() -> Result {
        for mode in [Mode::Retarget, Mode::RetargetLater] {
            let (disk, other) = (new_disk()?, new_disk_of(OTHER_SECTORS)?);
            let (to_other, counter) = (script(mode)?, script(Mode::Pass)?);
            to_other.to.store(other.file.dev().into(), Relaxed);
            let counted = Attachment::<Tester>::new(&other.file, &counter, None)?;
            let attached = Attachment::<Tester>::new(&disk.file, &to_other, None)?;
            let (result, _) = rw(&disk, Op::WRITE, NR_SECTORS - 2);
            drop(attached);
            drop(counted);
            assert_eq!(result, Ok(()));
            assert_eq!(counter.seen.load(Relaxed), 1);
            assert_eq!(counter.sector.load(Relaxed), NR_SECTORS - 2);
        }
        Ok(())
    }

    #[test]
    fn a_target_is_not_the_device_itself() -> Result {
        let (disk, script) = (new_disk()?, script(Mode::Retarget)?);
        script.to.store(disk.file.dev().into(), Relaxed);
        let attached = Attachment::<Tester>::new(&disk.file, &script, None);
        assert_eq!(attached.err(), Some(ELOOP));
        Ok(())
    }

    #[test]
    fn what_is_kept_while_detach_begins_is_let_go_by_it() -> Result {
        let read = with(Mode::KeepLate, |disk, script| -> Result<_> {
            let read = start_read(disk, 8)?;
            while script.processed.load(Relaxed) == 0 {
                fsleep(Delta::from_millis(1));
            }
            Ok(read)
        })??;
        assert_eq!(read.ended.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn a_list_keeps_the_order() -> Result {
        let disk = new_disk()?;
        let script = script(Mode::Keep)?;
        let attached = Attachment::<Tester>::new(&disk.file, &script, None)?;
        let reads = [
            start_read(&disk, 16)?,
            start_read(&disk, 8)?,
            start_read(&disk, 24)?,
        ];
        // SAFETY: It is attached.
        let this = unsafe { Filter::<Tester>::data(attached.filter.as_ptr()) };
        let mut sectors = [0; 3];
        let mut list = BioList::new();
        while let Some(bio) = this.release_one() {
            assert!(list.push(bio).is_ok());
        }
        for sector in &mut sectors {
            if let Some(bio) = list.pop() {
                *sector = bio.sector();
                // One at a time, so that those that are left are dropped with the list.
                if *sector == 16 {
                    bio.resubmit();
                } else {
                    bio.end(BlkStatus::OK);
                }
            }
        }
        let left = list.pop().is_some();
        drop(list);
        drop(attached);
        assert_eq!(sectors, [16, 8, 24]);
        assert!(!left);
        assert!(reads.iter().all(|read| read.ended.load(Relaxed) == 1));
        Ok(())
    }

    #[test]
    fn a_list_that_is_dropped_fails_its_bios() -> Result {
        let disk = new_disk()?;
        let script = script(Mode::Keep)?;
        let attached = Attachment::<Tester>::new(&disk.file, &script, None)?;
        let read = start_read(&disk, 16)?;
        // SAFETY: It is attached.
        let this = unsafe { Filter::<Tester>::data(attached.filter.as_ptr()) };
        let list = core::mem::take(&mut *this.kept.lock());
        drop(list);
        drop(attached);
        assert_eq!(read.ended.load(Relaxed), 1);
        // SAFETY: It has ended.
        let status = unsafe { (*read.bio.get()).bi_status };
        assert_eq!(status, BlkStatus::IOERR.as_raw());
        Ok(())
    }

    #[test]
    fn attach_that_fails_leaves_nothing() -> Result {
        let (disk, script) = (new_disk()?, script(Mode::Pass)?);
        let new = |options| Attachment::<Tester>::new(&disk.file, &script, Some(options));
        assert_eq!(new(c"fail").err(), Some(EINVAL));
        assert_eq!(new(c"fail=maybe").err(), Some(EINVAL));
        assert_eq!(new(c"fail=no fail=yes").err(), Some(EDOM));
        assert_eq!(new(c"\xff=no").err(), Some(EINVAL));
        assert_eq!(script.dropped.load(Relaxed), 0);

        let first = new(c" fail=no ")?;
        assert_eq!(new(c"").err(), Some(EALREADY));
        let other = Attachment::<BadName>::new(&disk.file, &(), None).err();
        assert_eq!(other, Some(EBUSY));
        drop(first);
        assert_eq!(script.dropped.load(Relaxed), 1);
        let options = Attachment::<BadName>::new(&disk.file, &(), Some(c"a=b")).err();
        assert_eq!(options, Some(EINVAL));
        Ok(())
    }

    #[test]
    fn what_is_leaked_stays_attached() -> Result {
        let (disk, script) = (new_disk()?, script(Mode::End)?);
        let attached = Attachment::<Tester>::new(&disk.file, &script, None)?;
        let filter = attached.filter.as_ptr();
        core::mem::forget(attached);
        let (result, _) = rw(&disk, Op::READ, 8);
        // SAFETY: Nobody else gives it back.
        unsafe { bindings::bdev_filter_detach(filter) };
        assert_eq!(result, Err(ENOSPC));
        assert_eq!(script.dropped.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn a_device_that_goes_takes_its_filter_along() -> Result {
        let (disk, script) = (new_disk()?, script(Mode::Pass)?);
        let attached = Attachment::<Tester>::new(&disk.file, &script, None)?;
        drop(disk);
        // It waits for the end, and says nothing.
        drop(attached);
        assert_eq!(script.detached.load(Relaxed), 0);
        assert_eq!(script.dropped.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn a_device_is_frozen_until_the_guard_goes() -> Result {
        let disk = new_disk()?;
        // SAFETY: The device is open.
        let count =
            || unsafe { bindings::atomic_read(&raw const (*disk.file.as_raw()).bd_fsfreeze_count) };
        let before = count();
        let first = disk.file.freeze()?;
        let second = disk.file.freeze()?;
        let frozen = count();
        drop(first);
        drop(second);
        assert_eq!((before, frozen, count()), (0, 2, 0));
        Ok(())
    }

    /// A filter whose name user space could not write.
    struct BadName;

    #[vtable]
    impl BlkFilter for BadName {
        const NAME: &'static CStr = c"two words";
        type RegistrationData = ();

        fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
            Ok(BadName)
        }

        fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
            bio.pass()
        }
    }

    #[test]
    fn registration() -> Result {
        let new = || KBox::pin_init(Registration::<Tester>::new(script(Mode::Pass)), GFP_KERNEL);

        let first = new()?;
        assert_eq!(new().err(), Some(EEXIST));
        drop(first);
        // The name is free again, and the failed one did not take the first one's with it.
        drop(new()?);

        let bad = KBox::pin_init(Registration::<BadName>::new(Ok(())), GFP_KERNEL);
        assert_eq!(bad.err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn bio_view() {
        let bio = Opaque::<bindings::bio>::uninit();
        let bio = pin!(bio);
        let raw = bio.get();
        let opf = Op::WRITE.as_raw() | u32::from(ReqFlag::Preflush | ReqFlag::Nowait);
        // SAFETY: A bio without device and data can be initialized like this.
        unsafe { bindings::bio_init(raw, core::ptr::null_mut(), core::ptr::null_mut(), 0, opf) };
        {
            // SAFETY: It is valid, and nobody else has it.
            let bio = unsafe { Bio::from_raw(raw) };
            assert_eq!(bio.op(), Op::WRITE);
            assert_eq!(bio.nr_sectors(), 0);
            assert!(bio.is_flush());
            assert!(bio.is_nowait());
            assert!(bio.flags().contains(ReqFlag::Preflush));
            assert!(!bio.flags().contains(ReqFlag::Fua));
        }
        // SAFETY: As above.
        unsafe { (*raw).bi_iter.bi_size = 8192 };
        {
            // SAFETY: As above.
            let bio = unsafe { Bio::from_raw(raw) };
            assert_eq!(bio.nr_sectors(), 16);
            assert!(!bio.is_flush());
        }
        // SAFETY: It was initialized above.
        unsafe { bindings::bio_uninit(raw) };
    }

    /// Makes a bio of 3 stretches, of which the second spans two pages, and shows it.
    fn with_data<R>(advance: u32, f: impl FnOnce(Data<'_>, DataMut<'_>) -> R) -> Result<R> {
        // Not by way of the stack.
        let pages: KBox<[u8; 16384]> = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        let mut vecs: [bindings::bio_vec; 3] = pin_init::zeroed();
        let bio = Opaque::<bindings::bio>::uninit();
        let bio = pin!(bio);
        let raw = bio.get();
        let op = Op::READ.as_raw();
        // SAFETY: The bio, the vectors and the pages stay until this returns.
        unsafe {
            bindings::bio_init(raw, core::ptr::null_mut(), vecs.as_mut_ptr(), 3, op);
            for (offset, len) in [(512, 512), (4096 + 2048, 4096), (12288 - 512, 512)] {
                bindings::bio_add_virt_nofail(
                    raw,
                    pages.as_ptr().cast::<u8>().add(offset).cast_mut().cast(),
                    len,
                );
            }
            (*raw).bi_iter.bi_size -= 512;
            bindings::bio_advance_iter(raw, &mut (*raw).bi_iter, advance);
        }
        let raw = NonNull::new(raw).ok_or(EINVAL)?;
        // SAFETY: As above, and it has data.
        let iter = unsafe { Bio::from_raw(raw.as_ptr()) }.iter();
        // SAFETY: As above.
        let result = unsafe { f(Data::new(raw, iter), DataMut::new(raw, iter)) };
        // SAFETY: It was initialized above.
        unsafe { bindings::bio_uninit(raw.as_ptr()) };
        Ok(result)
    }

    #[test]
    fn segments_lie_within_pages() -> Result {
        for (advance, want) in [
            (0, &[512, 2048, 2048][..]),
            (256, &[256, 2048, 2048]),
            (512 + 1024, &[1024, 2048]),
            (512 + 2048 + 2047, &[1]),
        ] {
            let (lengths, count) = with_data(advance, |data, _| {
                let mut lengths = [0; 4];
                let mut count = 0;
                for (place, segment) in lengths.iter_mut().zip(data.segments()) {
                    *place = segment.len();
                    count += 1;
                }
                (lengths, count)
            })?;
            assert_eq!(&lengths[..count], want);
        }
        Ok(())
    }

    #[test]
    fn data_is_copied_across_segments() -> Result {
        let (errors, read) = with_data(0, |data, mut data_mut| {
            let len = data.len();
            let mut read = [0; 8];
            let errors = [
                data_mut.write(508, &[1, 2, 3, 4, 5, 6, 7, 8]),
                data.read(508, &mut read),
                data.read(len, &mut []),
                data.read(len - 4, &mut [0; 4]),
                data.read(len - 4, &mut [0; 5]),
                data.read(usize::MAX, &mut [0]),
                data_mut.write(len, &[0]),
            ];
            (errors, read)
        })?;
        let want = [
            Ok(()),
            Ok(()),
            Ok(()),
            Ok(()),
            Err(EINVAL),
            Err(EINVAL),
            Err(EINVAL),
        ];
        assert_eq!(errors, want);
        assert_eq!(read, [1, 2, 3, 4, 5, 6, 7, 8]);
        Ok(())
    }
}
