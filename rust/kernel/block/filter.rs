// SPDX-License-Identifier: GPL-2.0

//! Block device filters.
//!
//! A filter sees the I/O of a block device that is in use, and can refuse it, without another
//! device on top. User space attaches it with `echo <name> > /sys/block/<disk>/filter` and
//! detaches it by writing `none` there.
//!
//! C header: [`include/linux/blk-filter.h`](srctree/include/linux/blk-filter.h)
//!
//! Reference: [`Documentation/block/blkfilter.rst`](srctree/Documentation/block/blkfilter.rst)
//!
//! # Examples
//!
//! A filter that makes a disk read-only from now on, whoever has it open:
//!
//! ```
//! use kernel::block::{
//!     bio::BlkStatus,
//!     filter::{
//!         self,
//!         BlkFilter,
//!         IncomingBio,
//!         Verdict, //
//!     }, //
//! };
//!
//! struct WriteProtect;
//!
//! #[vtable]
//! impl BlkFilter for WriteProtect {
//!     const NAME: &'static CStr = c"write_protect";
//!     type RegistrationData = ();
//!
//!     fn attach(_: filter::AttachInfo<'_>, _: &()) -> impl PinInit<Self, Error> {
//!         Ok(WriteProtect)
//!     }
//!
//!     fn submit_bio<'cb>(_this: Pin<&Self>, bio: IncomingBio<'cb>) -> Verdict<'cb> {
//!         if bio.op().changes_data() && !bio.is_flush() {
//!             return bio.end(BlkStatus::NOTSUPP);
//!         }
//!         bio.pass()
//!     }
//! }
//!
//! // This goes into the module's own structure.
//! let registration = KBox::pin_init(
//!     filter::Registration::<WriteProtect>::new(Ok(())),
//!     GFP_KERNEL,
//! )?;
//! # drop(registration);
//! # Ok::<(), Error>(())
//! ```

use super::bio::{
    Bio,
    BlkStatus, //
};
use crate::{
    bindings,
    error::{
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    module::this_module,
    prelude::*,
    str::as_char_ptr_in_const_context,
    task::might_sleep,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    alloc::Layout,
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    ops::Deref, //
};
use pin_init::PinInit;

/// What a filter does with each bio, and when it comes and goes.
///
/// The implementing type is the state of one filter on one device: there is one value of it for
/// each device that the filter is attached to, shared by all CPUs.
#[vtable]
pub trait BlkFilter: Sized + Send + Sync + 'static {
    /// Name by which user space attaches the filter.
    ///
    /// Printable ASCII without white space and brackets, at most 31 characters, not `none`.
    const NAME: &'static CStr;

    /// What [`attach`](Self::attach) needs of the module: a debugfs directory, for example. Owned
    /// by the [`Registration`].
    type RegistrationData: Send + Sync + 'static;

    /// Returns the initial state for a device, built in place.
    ///
    /// No bio of the device reaches the filter before this is through. If it fails the attach
    /// fails with that error and nothing is left. The result is dropped unused if another filter
    /// is faster.
    ///
    /// Process context, may sleep.
    fn attach(info: AttachInfo<'_>, data: &Self::RegistrationData) -> impl PinInit<Self, Error>;

    /// Called for each bio that is submitted to the device, once, before it reaches it.
    ///
    /// The only way to return is by one of the methods of `bio` that make a [`Verdict`].
    ///
    /// Runs in the context of the submitter, under the RCU read lock, on many CPUs at the same
    /// time. It must not sleep.
    fn submit_bio<'cb>(this: Pin<&Self>, bio: IncomingBio<'cb>) -> Verdict<'cb>;

    /// Called once after the filter left its device: [`submit_bio`](Self::submit_bio) does not run
    /// any more. The state is dropped some time later, in process context as well.
    ///
    /// Process context, may sleep.
    fn detached(_this: Pin<&Self>, _reason: DetachReason) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// Why a filter left its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachReason {
    /// It was detached; the device goes on without it.
    Detached,
    /// The device goes away.
    Removed,
}

/// What a filter is told about the device that it is being attached to.
#[derive(Clone, Copy)]
pub struct AttachInfo<'a>(&'a Opaque<bindings::bdev_filter>);

impl<'a> AttachInfo<'a> {
    /// Returns the name of the device, such as `vda` or `vda1`.
    pub fn device_name(&self) -> &'a CStr {
        // SAFETY: C fills in the name before it attaches, terminates it, and does not change it
        // for the life of the filter, which is at least `'a`.
        unsafe { CStr::from_char_ptr((&raw const (*self.0.get()).dev_name).cast()) }
    }
}

/// A bio on its way to the device, inside [`BlkFilter::submit_bio`].
///
/// It cannot be kept, sent elsewhere or forgotten: `submit_bio` has to return a [`Verdict`], and
/// only the very bio it was called for can make one of the right `'cb`.
///
/// # Invariants
///
/// `filter` is being shown `bio` for the duration of `'cb`.
pub struct IncomingBio<'cb> {
    bio: &'cb Bio,
    filter: *mut bindings::bdev_filter,
    // Invariant in `'cb`: a bio of one call cannot pass for that of another.
    _brand: PhantomData<fn(&'cb ()) -> &'cb ()>,
    // It belongs to the RCU read section of the caller.
    _not_thread_safe: NotThreadSafe,
}

impl<'cb> IncomingBio<'cb> {
    /// # Safety
    ///
    /// For the duration of `'cb` the caller must be inside the `submit_bio` method of `filter`,
    /// called for `bio`.
    #[inline]
    unsafe fn new(filter: *mut bindings::bdev_filter, bio: *mut bindings::bio) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: C passes a valid bio, and leaves it alone until the callback returns.
            bio: unsafe { Bio::from_raw(bio) },
            filter,
            _brand: PhantomData,
            _not_thread_safe: NotThreadSafe,
        }
    }

    /// Returns the first sector, in units of 512 bytes, relative to the device that is filtered:
    /// for the filter of a partition, relative to that partition.
    ///
    /// Without meaning for a bio without sectors.
    #[inline]
    pub fn sector(&self) -> u64 {
        // SAFETY: By the type invariants both pointers are valid.
        unsafe { bindings::bdev_filter_sector(self.filter, self.bio.as_raw()) }
    }

    /// Lets the bio go on to the device.
    #[inline]
    pub fn pass(self) -> Verdict<'cb> {
        Verdict::new(bindings::bdev_filter_verdict::BDEV_FILTER_PASS)
    }

    /// Ends the bio with a status; it does not reach the device.
    ///
    /// The submitter learns of it soon after `submit_bio` has returned.
    #[inline]
    pub fn end(self, status: BlkStatus) -> Verdict<'cb> {
        // SAFETY: By the type invariants the bio is valid, and ours to change until the callback
        // returns.
        Verdict::new(unsafe { bindings::bdev_filter_end(self.bio.as_raw(), status.as_raw()) })
    }
}

impl Deref for IncomingBio<'_> {
    type Target = Bio;

    #[inline]
    fn deref(&self) -> &Bio {
        self.bio
    }
}

/// What [`BlkFilter::submit_bio`] did with its bio.
///
/// Made by [`IncomingBio::pass`] and [`IncomingBio::end`].
#[must_use = "`submit_bio` has to return the verdict on its bio"]
pub struct Verdict<'cb> {
    verdict: bindings::bdev_filter_verdict,
    _brand: PhantomData<fn(&'cb ()) -> &'cb ()>,
}

impl Verdict<'_> {
    #[inline]
    fn new(verdict: bindings::bdev_filter_verdict) -> Self {
        Self {
            verdict,
            _brand: PhantomData,
        }
    }
}

/// A filter as C sees it: allocated and freed there, `data` built and dropped here.
#[repr(C)]
#[pin_data]
struct Filter<T: BlkFilter> {
    #[pin]
    raw: Opaque<bindings::bdev_filter>,
    #[pin]
    data: T,
}

impl<T: BlkFilter> Filter<T> {
    /// Returns where the state is.
    ///
    /// # Safety
    ///
    /// `flt` must point to the start of an allocation made for a `Filter<T>`.
    #[inline]
    unsafe fn data_ptr(flt: *mut bindings::bdev_filter) -> *mut T {
        const_assert!(
            core::mem::offset_of!(Filter<T>, raw) == 0,
            "struct bdev_filter must be at offset 0"
        );
        // SAFETY: The allocation is large enough for a `Filter<T>`, so this is inside of it.
        unsafe { flt.byte_add(core::mem::offset_of!(Filter<T>, data)).cast() }
    }

    /// Borrows the state.
    ///
    /// # Safety
    ///
    /// For the duration of `'a`, `flt` must point to a `Filter<T>` whose `data` is initialized and
    /// not dropped.
    #[inline]
    unsafe fn data<'a>(flt: *mut bindings::bdev_filter) -> Pin<&'a T> {
        // SAFETY: By the safety requirements. It is never moved: C does not know how big it is.
        unsafe { Pin::new_unchecked(&*Self::data_ptr(flt)) }
    }
}

/// The methods of a `T` for C.
struct OperationsVTable<T: BlkFilter>(PhantomData<T>);

impl<T: BlkFilter> OperationsVTable<T> {
    const VTABLE: bindings::bdev_filter_operations = bindings::bdev_filter_operations {
        name: as_char_ptr_in_const_context(T::NAME),
        owner: this_module::<T::OwnerModule>().as_ptr(),
        // Padded as `Kmalloc` does it, which makes `kmalloc()` align it too.
        size: Layout::new::<Filter<T>>().pad_to_align().size(),
        attach: Some(Self::attach_callback),
        submit_bio: Some(Self::submit_bio_callback),
        detached: if T::HAS_DETACHED {
            Some(Self::detached_callback)
        } else {
            None
        },
        release: Some(Self::release_callback),
        ..pin_init::zeroed()
    };

    const fn build() -> &'static bindings::bdev_filter_operations {
        &Self::VTABLE
    }

    /// # Safety
    ///
    /// `flt` must point to an allocation for a `Filter<T>` with `data` not initialized, and `data`
    /// to the `T::RegistrationData` of a [`Registration`] that is not dropped before this returns.
    unsafe extern "C" fn attach_callback(
        flt: *mut bindings::bdev_filter,
        data: *mut c_void,
        _options: *const c_char,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        let data = unsafe { &*data.cast::<T::RegistrationData>() };
        // CAST: `Opaque` is a transparent wrapper.
        // SAFETY: C initialized its part, and keeps it for longer than this call.
        let info = AttachInfo(unsafe { &*flt.cast() });
        // SAFETY: By the safety requirements.
        let slot = unsafe { Filter::<T>::data_ptr(flt) };

        // SAFETY: `slot` is valid for writes and properly aligned, see `VTABLE`. On failure C frees
        // the memory without calling `release`. It does not move the value.
        match unsafe { pin_init::raw_try_init(slot, T::attach(info, data)) } {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called by C on an attached filter, in an RCU read section, with a bio that is being
    /// submitted and that nobody else uses until this returns.
    unsafe extern "C" fn submit_bio_callback(
        flt: *mut bindings::bdev_filter,
        bio: *mut bindings::bio,
    ) -> bindings::bdev_filter_verdict {
        // SAFETY: `attach` succeeded before C published the filter. It calls `release` only after
        // a grace period that waits for us.
        let this = unsafe { Filter::<T>::data(flt) };
        // SAFETY: By the safety requirements, and as `'cb` ends with this function.
        let bio = unsafe { IncomingBio::new(flt, bio) };

        T::submit_bio(this, bio).verdict
    }

    /// # Safety
    ///
    /// To be called by C on a filter that was attached and is not released.
    unsafe extern "C" fn detached_callback(
        flt: *mut bindings::bdev_filter,
        reason: bindings::bdev_filter_reason,
    ) {
        // SAFETY: `attach` succeeded, `release` comes after us.
        let this = unsafe { Filter::<T>::data(flt) };

        T::detached(
            this,
            match reason {
                bindings::bdev_filter_reason::BDEV_FILTER_REMOVED => DetachReason::Removed,
                _ => DetachReason::Detached,
            },
        );
    }

    /// # Safety
    ///
    /// To be called by C, as the last method, on a filter for which `attach` succeeded.
    unsafe extern "C" fn release_callback(flt: *mut bindings::bdev_filter) {
        // Anything may be in there that has to be dropped where sleeping is fine.
        might_sleep();

        // SAFETY: `attach` initialized the value, and nobody refers to it any more.
        unsafe { core::ptr::drop_in_place(Filter::<T>::data_ptr(flt)) };
    }
}

/// Makes a filter known by its name while it exists; a field of the module's structure.
///
/// Registering does not pin the module. Being attached does: a module cannot be unloaded while one
/// of its filters is on a device.
///
/// A registration must not be leaked, as with [`mem::forget`](core::mem::forget), by a module that
/// can be unloaded; see [`MiscDeviceRegistration`](crate::miscdevice::MiscDeviceRegistration).
///
/// # Invariants
///
/// `data` is pinned, and registered together with the operations of `T` until drop.
#[pin_data(PinnedDrop)]
pub struct Registration<T: BlkFilter> {
    #[pin]
    data: T::RegistrationData,
    #[pin]
    _pin: PhantomPinned,
}

impl<T: BlkFilter> Registration<T> {
    /// Registers the filter; `data` is handed to each [`BlkFilter::attach`].
    ///
    /// Fails with [`EEXIST`] if the name is taken, and with [`EINVAL`] if it is not a valid name,
    /// see [`BlkFilter::NAME`].
    ///
    /// Process context, may sleep.
    pub fn new(data: impl PinInit<T::RegistrationData, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            data <- data,
            _pin: PhantomPinned,
            // Last: a filter can be attached before this returns.
            _: {
                // SAFETY: `data` is initialized by now. As it is pinned it stays where it is until
                // drop, which unregisters. The operations are static.
                to_result(unsafe {
                    bindings::bdev_filter_register(
                        OperationsVTable::<T>::build(),
                        (&raw mut (*this.as_ptr()).data).cast(),
                    )
                })?;
            },
        })
    }
}

#[pinned_drop]
impl<T: BlkFilter> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered. C finds it by name.
        unsafe { bindings::bdev_filter_unregister(OperationsVTable::<T>::build()) };
    }
}

// SAFETY: It can be dropped from any thread, and then drops a `T::RegistrationData`, which is
// `Send`.
unsafe impl<T: BlkFilter> Send for Registration<T> {}
// SAFETY: There is nothing to be done with a shared reference.
unsafe impl<T: BlkFilter> Sync for Registration<T> {}

#[cfg(CONFIG_RUST_BLK_FILTER_KUNIT_TEST)]
#[macros::kunit_tests(rust_blk_filter)]
mod tests {
    use super::*;
    use crate::{
        block::bio::{
            Op,
            ReqFlag, //
        },
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        }, //
    };
    use core::pin::pin;

    /// What happened to the filters of one registration.
    struct Log {
        seen: Atomic<u32>,
        last_sector: Atomic<u64>,
        detached: Atomic<u32>,
        dropped: Atomic<u32>,
    }

    fn new_log() -> Result<Arc<Log>> {
        Ok(Arc::new(
            Log {
                seen: Atomic::new(0),
                last_sector: Atomic::new(0),
                detached: Atomic::new(0),
                dropped: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// Ends writes with "no space", passes everything else, and does not attach to `bad`.
    struct TestFilter(Arc<Log>);

    #[vtable]
    impl BlkFilter for TestFilter {
        const NAME: &'static CStr = c"rust_kunit";
        type RegistrationData = Arc<Log>;

        fn attach(info: AttachInfo<'_>, log: &Arc<Log>) -> impl PinInit<Self, Error> {
            if info.device_name() == c"bad" {
                return Err(ENXIO);
            }
            Ok(TestFilter(log.clone()))
        }

        fn submit_bio<'cb>(this: Pin<&Self>, bio: IncomingBio<'cb>) -> Verdict<'cb> {
            this.0.seen.add(1, Relaxed);
            this.0.last_sector.store(bio.sector(), Relaxed);
            if bio.op() == Op::WRITE {
                return bio.end(BlkStatus::NOSPC);
            }
            bio.pass()
        }

        fn detached(this: Pin<&Self>, reason: DetachReason) {
            if reason == DetachReason::Removed {
                this.0.detached.add(1, Relaxed);
            }
        }
    }

    impl Drop for TestFilter {
        fn drop(&mut self) {
            self.0.dropped.add(1, Relaxed);
        }
    }

    /// A filter whose name user space could not write.
    struct BadName;

    #[vtable]
    impl BlkFilter for BadName {
        const NAME: &'static CStr = c"two words";
        type RegistrationData = ();

        fn attach(_: AttachInfo<'_>, _: &()) -> impl PinInit<Self, Error> {
            Ok(BadName)
        }

        fn submit_bio<'cb>(_this: Pin<&Self>, bio: IncomingBio<'cb>) -> Verdict<'cb> {
            bio.pass()
        }
    }

    type Ops = OperationsVTable<TestFilter>;

    /// Attaches as C does, without a device.
    fn attach(name: &CStr, log: &Arc<Log>) -> (KBox<Opaque<Filter<TestFilter>>>, c_int) {
        let filter = KBox::new(Opaque::<Filter<TestFilter>>::zeroed(), GFP_KERNEL)
            .expect("no memory for the test");
        let flt: *mut bindings::bdev_filter = filter.get().cast();
        // SAFETY: `flt` points to zeroed memory of the right size, the name fits.
        let ret = unsafe {
            for (i, c) in name.to_bytes().iter().enumerate() {
                (*flt).dev_name[i] = *c;
            }
            Ops::attach_callback(
                flt,
                core::ptr::from_ref(log).cast_mut().cast(),
                c"".as_char_ptr(),
            )
        };
        (filter, ret)
    }

    /// Shows a bio of `opf`, `sector` and `size` to a filter; the verdict and the bio's status.
    fn submit(
        filter: &Opaque<Filter<TestFilter>>,
        opf: u32,
        sector: u64,
        size: u32,
    ) -> (bindings::bdev_filter_verdict, bindings::blk_status_t) {
        let bio = Opaque::<bindings::bio>::uninit();
        let bio = pin!(bio);
        let bio = bio.get();
        // SAFETY: A bio without device and data can be initialized like this.
        unsafe {
            bindings::bio_init(bio, core::ptr::null_mut(), core::ptr::null_mut(), 0, opf);
            (*bio).bi_iter.bi_sector = sector;
            (*bio).bi_iter.bi_size = size;
        }
        // SAFETY: The filter is attached as far as the callback can tell.
        let verdict = unsafe { Ops::submit_bio_callback(filter.get().cast(), bio) };
        // SAFETY: Nobody else has the bio.
        let status = unsafe { (*bio).bi_status };
        // SAFETY: It was initialized above.
        unsafe { bindings::bio_uninit(bio) };
        (verdict, status)
    }

    #[test]
    fn verdicts() -> Result {
        let log = new_log()?;
        let (filter, ret) = attach(c"vdx", &log);
        assert_eq!(ret, 0);

        let (verdict, status) = submit(&filter, Op::READ.as_raw(), 8, 4096);
        assert!(verdict == bindings::bdev_filter_verdict::BDEV_FILTER_PASS);
        assert_eq!(status, BlkStatus::OK.as_raw());
        assert_eq!(log.last_sector.load(Relaxed), 8);

        let (verdict, status) = submit(&filter, Op::WRITE.as_raw(), 16, 512);
        assert!(verdict == bindings::bdev_filter_verdict::BDEV_FILTER_END);
        assert_eq!(status, BlkStatus::NOSPC.as_raw());
        assert_eq!(log.seen.load(Relaxed), 2);

        let flt = filter.get().cast();
        let removed = bindings::bdev_filter_reason::BDEV_FILTER_REMOVED;
        // SAFETY: It is attached, and nobody is in `submit_bio`.
        unsafe { Ops::detached_callback(flt, removed) };
        assert_eq!(log.dropped.load(Relaxed), 0);
        // SAFETY: It was attached, and this is the last call.
        unsafe { Ops::release_callback(flt) };
        assert_eq!(log.detached.load(Relaxed), 1);
        assert_eq!(log.dropped.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn failed_attach_leaves_nothing() -> Result {
        let log = new_log()?;
        let (_filter, ret) = attach(c"bad", &log);
        assert_eq!(ret, ENXIO.to_errno());
        assert_eq!(log.dropped.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn registration() -> Result {
        let new = || KBox::pin_init(Registration::<TestFilter>::new(new_log()), GFP_KERNEL);

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
}
