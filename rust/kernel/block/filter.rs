// SPDX-License-Identifier: GPL-2.0

//! Block device filters.
//!
//! A filter sees the I/O of a block device that is in use. It can refuse it, hold it, and do I/O
//! of its own, without another device on top. User space attaches it with
//! `echo <name> > /sys/block/<disk>/filter` and detaches it by writing `none` there.
//!
//! C header: [`include/linux/blk-filter.h`](srctree/include/linux/blk-filter.h)
//!
//! Reference: [`Documentation/block/blkfilter.rst`](srctree/Documentation/block/blkfilter.rst)
//!
//! # Who has a bio
//!
//! [`BlkFilter::submit_bio`] gets an [`IncomingBio`], which it has to turn into a [`Verdict`]
//! there and then. To keep the bio for longer it takes an [`OwnedBio`]: the duty to finish the bio
//! once, which can be stored, queued in a [`BioList`] and sent to other threads. What has to sleep
//! is deferred to [`BlkFilter::process`]. A filter says with [`BlkFilter::TAKES`] that it takes
//! bios; one that does not costs no worker.
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
//!     fn attach(_: filter::AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
//!         Ok(WriteProtect)
//!     }
//!
//!     fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
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
//!
//! One that makes each write wait for 10 ms:
//!
//! ```
//! use kernel::{
//!     block::filter::{
//!         self,
//!         BlkFilter,
//!         Context,
//!         IncomingBio,
//!         OwnedBio,
//!         Verdict, //
//!     },
//!     time::Delta, //
//! };
//!
//! struct SlowWrites;
//!
//! #[vtable]
//! impl BlkFilter for SlowWrites {
//!     const NAME: &'static CStr = c"slow_writes";
//!     const TAKES: bool = true;
//!     type RegistrationData = ();
//!
//!     fn attach(_: filter::AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
//!         Ok(SlowWrites)
//!     }
//!
//!     fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
//!         if bio.op().changes_data() {
//!             // What it may not take goes on at once.
//!             return bio.defer().unwrap_or_else(IncomingBio::pass);
//!         }
//!         bio.pass()
//!     }
//!
//!     fn process<'a>(_this: Pin<&'a Self>, cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
//!         // Shorter when the filter is detached.
//!         cx.sleep(Delta::from_millis(10));
//!         bio.resubmit();
//!     }
//! }
//! ```

use super::{
    bdev::{
        BdevFile,
        BlockDevice, //
    },
    bio::{
        Bio,
        BlkStatus,
        Data,
        DataMut,
        Op, //
    }, //
};
use crate::{
    bindings,
    error::{
        from_err_ptr,
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    module::this_module,
    prelude::*,
    str::as_char_ptr_in_const_context,
    task::might_sleep,
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    },
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
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use pin_init::PinInit;

mod hook;
mod io;
#[cfg(CONFIG_RUST_BLK_FILTER_KUNIT_TEST)]
mod kunit;
mod retarget;

pub use hook::{
    CompletedBio,
    EndIo, //
};
pub use io::{
    BioPage,
    BioSet,
    NewBio, //
};
pub use retarget::Target;

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

    /// Whether [`attach`](Self::attach) looks at the options; if not, an attach with options fails
    /// with [`EINVAL`].
    const OPTIONS: bool = false;

    /// Whether the filter takes bios: [`IncomingBio::take`] and [`IncomingBio::defer`] do not
    /// compile otherwise. It then has workers of its own.
    const TAKES: bool = false;

    /// Whether the filter arms or retargets bios: [`IncomingBio::pass_armed`],
    /// [`IncomingBio::retarget`] and those of [`OwnedBio`] do not compile otherwise. It then has a
    /// pool of memory for that.
    const ARMS: bool = false;

    /// Whether [`detached`](Self::detached) does I/O of its own:
    /// [`DetachedContext::submit_and_wait`] does not compile otherwise. The device is then opened
    /// for it, and is in use as by any other opener.
    const SAVES: bool = false;

    /// Whether the filter copes with zoned devices: it resubmits the writes to a zone in the order
    /// in which it took them. If not, it is not attached to them, and can take neither zone
    /// operations nor writes to a device that became zoned.
    const ZONED: bool = false;

    /// Whether the filter copes with inline encryption: what is in memory is not what is on the
    /// device. If not, it is not attached to devices that offer it, and neither can take nor look
    /// at the data of a bio that uses it.
    const CRYPTO: bool = false;

    /// The same for integrity metadata.
    const INTEGRITY: bool = false;

    /// What [`attach`](Self::attach) needs of the module: a debugfs directory, for example. Owned
    /// by the [`Registration`].
    type RegistrationData: Send + Sync + 'static;

    /// Returns the initial state for a device, built in place.
    ///
    /// A kernel stack has 16 KiB. So that a large state never is there, use
    /// [`try_pin_init!`](crate::try_pin_init), and
    /// [`pin_init_array_from_fn`](pin_init::pin_init_array_from_fn) for arrays, rather than a value
    /// of the type.
    ///
    /// No bio of the device reaches the filter before this is through. If it fails the attach
    /// fails with that error and nothing is left. The result is dropped unused if another filter
    /// is faster.
    ///
    /// Process context, may sleep. It may load modules and register other filters. It must not
    /// unregister its own kind, as that waits for it.
    fn attach(info: AttachInfo<'_>, data: &Self::RegistrationData) -> impl PinInit<Self, Error>;

    /// Called for each bio that is submitted to the device, once, before it reaches it.
    ///
    /// The only way to return is by one of the methods of `bio` that make a [`Verdict`].
    ///
    /// Runs in the context of the submitter, under the RCU read lock, on many CPUs at the same
    /// time. It must not sleep: that ends the read section on kernels whose RCU is not preemptible,
    /// and `this` may be dropped meanwhile. `CONFIG_DEBUG_ATOMIC_SLEEP` finds it.
    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb>;

    /// Called for each bio that was deferred, one at a time, in the order of deferral.
    ///
    /// If this is not implemented, or the filter has been detached, what was deferred is
    /// resubmitted.
    ///
    /// Process context, on a workqueue of the filter's own, may sleep; a long sleep should be a
    /// [`Context::sleep`]. Memory is allocated without I/O: the device may be what the system swaps
    /// to. It must not wait for another bio of the device but with `cx`, nor for
    /// [`let_go`](Self::let_go), which waits for it.
    fn process<'a>(_this: Pin<&'a Self>, _cx: &Context<'a, Self>, _bio: OwnedBio<Self>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called when the driver has set the size of the device, in sectors of 512 bytes.
    ///
    /// The size may be what it was: the device may be another one behind the same name now, as a
    /// new table of device mapper is. The size is 0 when the device dies. Under the RCU read lock:
    /// this must not sleep, see [`submit_bio`](Self::submit_bio).
    fn resized(_this: Pin<&Self>, _nr_sectors: u64) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called once when a filter with [`TAKES`](Self::TAKES) is to leave its device: finish the
    /// bios that it keeps.
    ///
    /// [`process`](Self::process) does not run any more. What was deferred is resubmitted. If the
    /// device is going away [`submit_bio`](Self::submit_bio) still sees what is submitted, but
    /// can't take it any more.
    ///
    /// Process context, on a workqueue of the filter's own, may sleep. It must not wait for I/O:
    /// the device may be waiting for what is kept.
    fn let_go(_this: Pin<&Self>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called once after the filter left its device: neither [`submit_bio`](Self::submit_bio) nor
    /// [`process`](Self::process) runs any more, and none will. The state is dropped, in process
    /// context as well, when the last bio that the filter took or armed is finished.
    ///
    /// Process context, on a workqueue of the system, may sleep.
    fn detached<'a>(_this: Pin<&'a Self>, _cx: &DetachedContext<'a, Self>, _reason: DetachReason) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// Why a filter left its device.
///
/// # Examples
///
/// ```
/// use kernel::block::filter::DetachReason;
///
/// /// Whether the device is still there to be written to.
/// fn can_save(reason: DetachReason) -> bool {
///     match reason {
///         DetachReason::Detached => true,
///         DetachReason::Removed => false,
///     }
/// }
/// # assert!(can_save(DetachReason::Detached) && !can_save(DetachReason::Removed));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachReason {
    /// It was detached; the device goes on without it.
    Detached,
    /// The device goes away.
    Removed,
}

/// Returns a number that no other call returns, also after a reboot: random.
///
/// A virtual machine that is set back to a snapshot with its memory has the state of its random
/// number generator from there, so the time is in the number, too.
pub fn unique_id() -> u64 {
    let now = Instant::<Monotonic>::now().as_nanos() as u64;
    // SAFETY: There are no requirements.
    unsafe { bindings::get_random_u64() ^ now }
}

/// What a filter is told about the device that it is being attached to.
///
/// # Examples
///
/// ```
/// use kernel::block::filter::{unique_id, AttachInfo};
///
/// /// `echo "my_filter ms=20" > /sys/block/vda/filter`
/// fn delay(info: &AttachInfo<'_>) -> Result<u32> {
///     let mut ms = 10;
///     info.parse_options(|key, value| {
///         ms = match key {
///             "ms" => value.parse().map_err(|_| EINVAL)?,
///             _ => return Err(EINVAL),
///         };
///         Ok(())
///     })?;
///     Ok(ms)
/// }
///
/// /// What a filter says of itself in the kernel log, and an id for what it is about to gather.
/// fn hello(info: &AttachInfo<'_>) -> u64 {
///     pr_info!("{:?}: attached with {:?}\n", info.device_name(), info.options());
///     unique_id()
/// }
/// ```
#[derive(Clone, Copy)]
pub struct AttachInfo<'a> {
    filter: &'a Opaque<bindings::bdev_filter>,
    options: &'a CStr,
}

impl<'a> AttachInfo<'a> {
    /// Returns the name of the device, such as `vda` or `vda1`.
    pub fn device_name(&self) -> &'a CStr {
        // SAFETY: C fills in the name before it attaches, terminates it, and does not change it
        // for the life of the filter, which is at least `'a`.
        unsafe { CStr::from_char_ptr((&raw const (*self.filter.get()).dev_name).cast()) }
    }

    /// Returns the device.
    pub fn device(&self) -> &'a BlockDevice {
        // SAFETY: This is its `attach`. Whoever attaches keeps the device until that returned.
        unsafe { BlockDevice::from_raw(bindings::bdev_filter_bdev(self.filter.get())) }
    }

    /// Returns a [`Handle`] of the filter that is being attached.
    pub fn handle(&self) -> Handle {
        let filter = self.filter.get();
        // SAFETY: The filter is valid, and this is its `attach`.
        unsafe { bindings::bdev_filter_get_handle(filter) };
        // SAFETY: It comes from a reference.
        let filter = unsafe { NonNull::new_unchecked(filter) };
        // INVARIANT: Just taken.
        Handle(filter)
    }

    /// Returns what the user wrote after the name of the filter.
    pub fn options(&self) -> &'a CStr {
        self.options
    }

    /// Calls `set` with each `key=value` of the options, which are separated by white space.
    ///
    /// [`EINVAL`] if there is something that is not of this form, else the first error of `set`,
    /// which should be [`EINVAL`] for an unknown key.
    pub fn parse_options(&self, mut set: impl FnMut(&'a str, &'a str) -> Result) -> Result {
        let options = self.options.to_str().map_err(|_| EINVAL)?;
        for option in options.split_ascii_whitespace() {
            let (key, value) = option.split_once('=').ok_or(EINVAL)?;
            set(key, value)?;
        }
        Ok(())
    }
}

/// Tells a filter whether it still is on its device.
///
/// Part of the state of a filter that vouches for something, outside of its methods. It keeps
/// nothing alive but a little memory.
///
/// # Examples
///
/// ```
/// use kernel::block::filter::Handle;
///
/// /// What a filter says to user space about the time until now.
/// fn complete(handle: &Handle) -> Result {
///     if handle.is_attached() {
///         Ok(())
///     } else {
///         Err(ESTALE)
///     }
/// }
/// ```
///
/// # Invariants
///
/// The memory of the filter is ours as well.
pub struct Handle(NonNull<bindings::bdev_filter>);

// SAFETY: It can be used, and given back, by any thread.
unsafe impl Send for Handle {}
// SAFETY: As above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Returns whether all bios submitted to the device until now, since
    /// [`attach`](BlkFilter::attach) returned, were shown to the filter.
    ///
    /// Any context.
    #[inline]
    pub fn is_attached(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_filter_is_attached(self.0.as_ptr()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. It is not used after this.
        unsafe { bindings::bdev_filter_put_handle(self.0.as_ptr()) };
    }
}

/// A bio as one filter sees it.
///
/// # Examples
///
/// ```
/// use kernel::block::filter::FilteredBio;
///
/// /// Whether the bio touches `sector`, relative to the device that the filter is on.
/// fn touches(bio: &FilteredBio, sector: u64) -> bool {
///     (bio.sector()..bio.sector() + u64::from(bio.nr_sectors())).contains(&sector)
/// }
///
/// /// Whether a filter that wants to hold the bio for a while, and rather fails it than letting it
/// /// pass, has to do that.
/// fn has_to_fail(bio: &FilteredBio) -> bool {
///     bio.is_nowait() || bio.is_protected()
/// }
/// ```
///
/// # Invariants
///
/// `bio` points to a valid bio that is being shown to `filter`, or was taken by it; `filter` to one
/// that has not been released. Nobody else accesses the bio while this is borrowed.
pub struct FilteredBio {
    bio: NonNull<bindings::bio>,
    filter: NonNull<bindings::bdev_filter>,
}

impl FilteredBio {
    #[inline]
    fn as_raw(&self) -> *mut bindings::bio {
        self.bio.as_ptr()
    }

    /// Returns the first sector, in units of 512 bytes, relative to the device that is filtered:
    /// for the filter of a partition, relative to that partition.
    ///
    /// Without meaning for a bio without sectors.
    #[inline]
    pub fn sector(&self) -> u64 {
        // A call only if there is something to subtract.
        // SAFETY: By the type invariants the filter is valid, and nobody changes this after attach.
        if !unsafe { (*self.filter.as_ptr()).on_partition } {
            return self.iter().bi_sector;
        }
        // SAFETY: By the type invariants both pointers are valid.
        unsafe { bindings::bdev_filter_sector(self.filter.as_ptr(), self.as_raw()) }
    }

    /// Returns whether the bio is one that the filter can't take, because of
    /// [`BlkFilter::ZONED`], [`BlkFilter::CRYPTO`] or [`BlkFilter::INTEGRITY`].
    #[inline]
    pub fn is_protected(&self) -> bool {
        // SAFETY: By the type invariants both pointers are valid.
        unsafe { bindings::bdev_filter_protected(self.filter.as_ptr(), self.as_raw()) }
    }

    /// Returns whether the filter may look at the data of the bio, and there is some.
    #[inline]
    fn has_data(&self) -> bool {
        // SAFETY: By the type invariants both pointers are valid.
        let may = unsafe { bindings::bdev_filter_has_data(self.filter.as_ptr(), self.as_raw()) };
        may && self.op().has_data()
    }

    /// Makes sure that a bio that ends with `status` without the device has data: a read that ends
    /// well has read zeroes. Returns the status, which is an error if that is not possible.
    #[inline]
    fn zero_fill(&self, status: BlkStatus) -> BlkStatus {
        if status != BlkStatus::OK || self.op() != Op::READ || self.size() == 0 {
            return status;
        }
        // SAFETY: By the type invariants the bio is valid, and a read with a size has memory.
        if !unsafe { bindings::bdev_filter_may_copy(self.as_raw(), self.iter()) } {
            return BlkStatus::IOERR;
        }
        // SAFETY: By the type invariants nobody else has the bio, which has memory that we may
        // touch.
        unsafe { DataMut::new(self.bio, self.iter()) }.fill(0);
        status
    }

    /// Returns the data that is being written, if there is some.
    ///
    /// Not that of a [protected](Self::is_protected) bio. The data of a read is not there yet.
    #[inline]
    pub fn data(&self) -> Option<Data<'_>> {
        if self.op() == Op::READ || !self.has_data() {
            return None;
        }
        // SAFETY: By the type invariants the bio stays as it is while we are borrowed, and it has
        // data.
        Some(unsafe { Data::new(self.bio, self.iter()) })
    }
}

impl Deref for FilteredBio {
    type Target = Bio;

    #[inline]
    fn deref(&self) -> &Bio {
        // SAFETY: By the type invariants.
        unsafe { Bio::from_raw(self.as_raw()) }
    }
}

/// A bio on its way to the device, inside [`BlkFilter::submit_bio`].
///
/// It cannot be kept, sent elsewhere or forgotten: `submit_bio` has to return a [`Verdict`], and
/// only the very bio it was called for can make one of the right `'cb`.
///
/// # Examples
///
/// ```
/// use kernel::block::{
///     bio::BlkStatus,
///     filter::{
///         BlkFilter,
///         IncomingBio,
///         Verdict, //
///     }, //
/// };
///
/// /// Lets reads pass, and nothing else.
/// fn read_only<'cb, T: BlkFilter>(bio: IncomingBio<'cb, T>) -> Verdict<'cb> {
///     if bio.op().changes_data() {
///         return bio.end(BlkStatus::from(EROFS));
///     }
///     bio.pass()
/// }
/// ```
///
/// # Invariants
///
/// The bio is being shown to the filter, which is one of a `T`, for the duration of `'cb`.
pub struct IncomingBio<'cb, T: BlkFilter> {
    bio: FilteredBio,
    // Invariant in `'cb`: a bio of one call cannot pass for that of another.
    _brand: PhantomData<fn(&'cb T) -> &'cb T>,
    // It belongs to the RCU read section of the caller.
    _not_thread_safe: NotThreadSafe,
}

impl<'cb, T: BlkFilter> IncomingBio<'cb, T> {
    /// # Safety
    ///
    /// For the duration of `'cb` the caller must be inside the `submit_bio` method of `filter`,
    /// which is one of a `T`, called for `bio`.
    #[inline]
    unsafe fn new(filter: *mut bindings::bdev_filter, bio: *mut bindings::bio) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            bio: FilteredBio {
                // SAFETY: C does not call the method with null pointers.
                bio: unsafe { NonNull::new_unchecked(bio) },
                // SAFETY: As above.
                filter: unsafe { NonNull::new_unchecked(filter) },
            },
            _brand: PhantomData,
            _not_thread_safe: NotThreadSafe,
        }
    }

    /// Lets the bio go on to the device.
    #[inline]
    pub fn pass(self) -> Verdict<'cb> {
        Verdict::new(bindings::bdev_filter_verdict::BDEV_FILTER_PASS)
    }

    /// Ends the bio with a status; it does not reach the device.
    ///
    /// The submitter learns of it soon after `submit_bio` has returned. A read that ends well has
    /// read zeroes.
    #[inline]
    pub fn end(self, status: BlkStatus) -> Verdict<'cb> {
        let status = self.bio.zero_fill(status);
        // SAFETY: By the type invariants the bio is valid, and ours to change until the callback
        // returns.
        Verdict::new(unsafe { bindings::bdev_filter_end(self.bio.as_raw(), status.as_raw()) })
    }

    /// Takes the bio: from now on it has to be finished by means of the [`OwnedBio`].
    ///
    /// Fails, and gives the bio back, if it is [protected](FilteredBio::is_protected), or if the
    /// device is going away.
    ///
    /// A submitter that does not want to wait, see [`Bio::is_nowait`], would rather have
    /// [`BlkStatus::AGAIN`]. Others are made to wait while more than 1024 bios are queued for
    /// [`BlkFilter::process`], or of the same control group to be resubmitted.
    #[inline]
    pub fn take(self) -> Result<(OwnedBio<T>, Verdict<'cb>), Self> {
        const_assert!(T::TAKES, "a filter that takes bios must have TAKES");
        // SAFETY: By the type invariants we are in the callback, and nobody else has the bio.
        if !unsafe { bindings::bdev_filter_take(self.bio.filter.as_ptr(), self.bio.as_raw()) } {
            return Err(self);
        }
        // INVARIANT: It has just been taken, and `self` is gone.
        let owned = OwnedBio {
            bio: self.bio,
            _filter: PhantomData,
        };
        Ok((
            owned,
            Verdict::new(bindings::bdev_filter_verdict::BDEV_FILTER_TAKEN),
        ))
    }

    /// Takes the bio and hands it to [`BlkFilter::process`].
    ///
    /// Allocates nothing. Fails as [`take`](Self::take) does.
    #[inline]
    pub fn defer(self) -> Result<Verdict<'cb>, Self> {
        let (bio, verdict) = self.take()?;
        bio.defer();
        Ok(verdict)
    }
}

impl<T: BlkFilter> Deref for IncomingBio<'_, T> {
    type Target = FilteredBio;

    #[inline]
    fn deref(&self) -> &FilteredBio {
        &self.bio
    }
}

/// What [`BlkFilter::submit_bio`] did with its bio.
///
/// Made by the methods of [`IncomingBio`].
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

/// A bio that a filter took: the duty to finish it, once.
///
/// Until the bio is finished it keeps the filter from being released, and its module from being
/// unloaded; not any longer, so code of the module that finishes the last bio elsewhere than in a
/// method of the filter, as in a work item, must be waited for when the module goes. A bio that is
/// dropped unfinished ends with an I/O error, and the kernel log names filter and device. A bio
/// that is leaked keeps whoever waits for it, and a detach, waiting.
///
/// All methods can be called in any context, but [`end`](Self::end) runs what the submitter has to
/// do then, so that no lock may be held that it could need. What is known in
/// [`BlkFilter::submit_bio`] already is better said with [`IncomingBio::end`].
///
/// # Examples
///
/// ```
/// use kernel::block::{
///     bio::BlkStatus,
///     filter::{
///         BlkFilter,
///         IncomingBio,
///         OwnedBio,
///         Verdict, //
///     }, //
/// };
///
/// /// Takes a bio; the rest is up to whoever gets it.
/// fn hand_over<'cb, T: BlkFilter>(
///     bio: IncomingBio<'cb, T>,
///     to: impl FnOnce(OwnedBio<T>),
/// ) -> Verdict<'cb> {
///     match bio.take() {
///         Ok((owned, verdict)) => {
///             to(owned);
///             verdict
///         }
///         // It is protected.
///         Err(bio) => bio.pass(),
///     }
/// }
///
/// fn decide<T: BlkFilter>(bio: OwnedBio<T>, may: bool) {
///     if may {
///         bio.resubmit();
///     } else {
///         bio.end(BlkStatus::IOERR);
///     }
/// }
///
/// /// Answers a read with some bytes and zeroes after them, without the device.
/// fn answer<T: BlkFilter>(bio: OwnedBio<T>) {
///     match bio.fill() {
///         Ok(mut filled) => {
///             let status = BlkStatus::from(filled.data().write(0, b"hello"));
///             filled.end(status);
///         }
///         Err(bio) => bio.end(BlkStatus::NOTSUPP),
///     }
/// }
/// ```
///
/// # Invariants
///
/// The bio was taken by the filter, which is one of a `T`, and is not finished.
#[must_use = "a bio that is dropped fails"]
pub struct OwnedBio<T: BlkFilter> {
    bio: FilteredBio,
    _filter: PhantomData<fn() -> T>,
}

// SAFETY: A bio can be finished by any thread, and so can the state be dropped that this may be the
// last to refer to: C does it on a workqueue, and `T` is `Send`.
unsafe impl<T: BlkFilter> Send for OwnedBio<T> {}

impl<T: BlkFilter> OwnedBio<T> {
    /// # Safety
    ///
    /// `bio` must have been taken by `filter`, one of a `T`, and the duty to finish it passes to
    /// the caller.
    #[inline]
    unsafe fn from_raw(filter: *mut bindings::bdev_filter, bio: *mut bindings::bio) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            bio: FilteredBio {
                // SAFETY: A bio that was taken is not null.
                bio: unsafe { NonNull::new_unchecked(bio) },
                // SAFETY: Nor is the filter that took it.
                filter: unsafe { NonNull::new_unchecked(filter) },
            },
            _filter: PhantomData,
        }
    }

    /// Gives up the duty to finish the bio.
    #[inline]
    fn into_raw(self) -> (*mut bindings::bdev_filter, *mut bindings::bio) {
        let this = ManuallyDrop::new(self);
        (this.bio.filter.as_ptr(), this.bio.as_raw())
    }

    /// Ends the bio with a status. A read that ends well has read zeroes; to answer it with
    /// something else, see [`fill`](Self::fill).
    #[inline]
    pub fn end(self, status: BlkStatus) {
        let status = self.zero_fill(status);
        self.end_as_is(status);
    }

    #[inline]
    fn end_as_is(self, status: BlkStatus) {
        let (filter, bio) = self.into_raw();
        // SAFETY: By the type invariants it was taken, and is ended only here.
        unsafe { bindings::bdev_filter_endio(filter, bio, status.as_raw()) };
    }

    /// Lets the bio go on below the filter.
    ///
    /// A worker of the filter submits the bio, that of [`BlkFilter::process`] after that returned.
    #[inline]
    pub fn resubmit(self) {
        let (filter, bio) = self.into_raw();
        // SAFETY: By the type invariants it was taken, and goes on only here.
        unsafe { bindings::bdev_filter_resubmit(filter, bio) };
    }

    /// Hands the bio to [`BlkFilter::process`], after those that were deferred before.
    #[inline]
    pub fn defer(self) {
        let (filter, bio) = self.into_raw();
        // SAFETY: By the type invariants it was taken, and it is nobody else's now.
        unsafe { bindings::bdev_filter_defer(filter, bio) };
    }

    /// Begins to answer a read without the device. All that is not filled in afterwards is zero.
    ///
    /// Gives the bio back if it is no read, or is [protected](FilteredBio::is_protected).
    #[inline]
    pub fn fill(self) -> Result<FilledBio<T>, Self> {
        if self.op() != Op::READ || !self.has_data() {
            return Err(self);
        }
        self.zero_fill(BlkStatus::OK);
        // INVARIANT: It is a read with data that the filter may look at, zeroed just now.
        Ok(FilledBio(self))
    }
}

/// A read that a filter took and answers itself.
///
/// # Invariants
///
/// A read whose data the filter may look at, and whose memory has been initialized.
#[must_use = "a bio that is dropped fails"]
pub struct FilledBio<T: BlkFilter>(OwnedBio<T>);

impl<T: BlkFilter> FilledBio<T> {
    /// Returns what the submitter gets.
    #[inline]
    pub fn data(&mut self) -> DataMut<'_> {
        // SAFETY: By the type invariants nobody else has the bio, and it has data. It is not on its
        // way to the device.
        unsafe { DataMut::new(self.0.bio.bio, self.0.iter()) }
    }

    /// Ends the bio with a status.
    #[inline]
    pub fn end(self, status: BlkStatus) {
        self.0.end_as_is(status);
    }
}

impl<T: BlkFilter> Deref for OwnedBio<T> {
    type Target = FilteredBio;

    #[inline]
    fn deref(&self) -> &FilteredBio {
        &self.bio
    }
}

impl<T: BlkFilter> Drop for OwnedBio<T> {
    fn drop(&mut self) {
        let (filter, bio) = (self.bio.filter.as_ptr(), self.bio.as_raw());
        // SAFETY: By the type invariants it was taken and is not finished. It can't be used after
        // this.
        unsafe { bindings::bdev_filter_drop(filter, bio) };
    }
}

/// A queue of bios that a filter took, first in, first out.
///
/// The bios themselves are the links: adding one allocates nothing. All are of one filter on one
/// device. Those that are still there when the list is dropped end as if they had been dropped, see
/// [`OwnedBio`]. A list in the state of the filter itself must be emptied in
/// [`BlkFilter::let_go`]: as long as there are bios the state is not dropped.
///
/// # Examples
///
/// ```
/// use kernel::{
///     block::filter::{
///         BioList,
///         BlkFilter,
///         OwnedBio, //
///     },
///     sync::SpinLock, //
/// };
///
/// /// Keeps a bio, in the list that the state of its filter has.
/// fn keep<T: BlkFilter>(bio: OwnedBio<T>, kept: &SpinLock<BioList<T>>) {
///     let other = kept.lock().push(bio);
///     // Of another device: not with the lock held.
///     if let Err(bio) = other {
///         bio.resubmit();
///     }
/// }
///
/// /// Lets all go on that were kept in a list.
/// fn release<T: BlkFilter>(kept: &SpinLock<BioList<T>>) {
///     // Not with the lock held: it may be taken again below.
///     let mut bios = core::mem::take(&mut *kept.lock());
///     while let Some(bio) = bios.pop() {
///         bio.resubmit();
///     }
/// }
/// ```
///
/// # Invariants
///
/// The bios from `head` on, linked by `bi_next`, are owned as by an [`OwnedBio`], by `filter`.
/// `tail` is the last of them. There is none if `head` is null.
pub struct BioList<T: BlkFilter> {
    head: *mut bindings::bio,
    tail: *mut bindings::bio,
    filter: *mut bindings::bdev_filter,
    _filter: PhantomData<fn() -> T>,
}

// SAFETY: As `OwnedBio`.
unsafe impl<T: BlkFilter> Send for BioList<T> {}

impl<T: BlkFilter> BioList<T> {
    /// Returns an empty list.
    pub const fn new() -> Self {
        // INVARIANT: There is none.
        Self {
            head: core::ptr::null_mut(),
            tail: core::ptr::null_mut(),
            filter: core::ptr::null_mut(),
            _filter: PhantomData,
        }
    }

    /// Returns whether there is no bio.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Adds a bio at the end.
    ///
    /// Gives it back if there are bios of another device in the list.
    #[inline]
    pub fn push(&mut self, bio: OwnedBio<T>) -> Result<(), OwnedBio<T>> {
        if self.is_empty() {
            self.filter = bio.bio.filter.as_ptr();
        } else if self.filter != bio.bio.filter.as_ptr() {
            return Err(bio);
        }
        let (_, bio) = bio.into_raw();
        // INVARIANT: It is the last now.
        if self.is_empty() {
            self.head = bio;
        } else {
            // SAFETY: By the type invariants we own it, so its link is ours to use.
            unsafe { (*self.tail).bi_next = bio };
        }
        self.tail = bio;
        Ok(())
    }

    /// Removes the first bio.
    #[inline]
    pub fn pop(&mut self) -> Option<OwnedBio<T>> {
        if self.is_empty() {
            return None;
        }
        let bio = self.head;
        // INVARIANT: The others are still there.
        // SAFETY: By the type invariants we own it.
        self.head = unsafe { core::mem::replace(&mut (*bio).bi_next, core::ptr::null_mut()) };
        // SAFETY: By the type invariants.
        Some(unsafe { OwnedBio::from_raw(self.filter, bio) })
    }
}

impl<T: BlkFilter> Default for BioList<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: BlkFilter> Drop for BioList<T> {
    fn drop(&mut self) {
        while let Some(bio) = self.pop() {
            drop(bio);
        }
    }
}

/// What a filter can do in [`BlkFilter::process`], where it may sleep: wait, and do I/O of its own
/// to the device, below itself.
///
/// # Invariants
///
/// We are inside [`BlkFilter::process`] of `filter`, which is one of a `T`.
pub struct Context<'a, T: BlkFilter> {
    filter: *mut bindings::bdev_filter,
    _brand: PhantomData<fn(&'a T) -> &'a T>,
    _not_thread_safe: NotThreadSafe,
}

impl<'a, T: BlkFilter> Context<'a, T> {
    /// # Safety
    ///
    /// While it exists the caller must be inside of `process` of `filter`, which is one of a `T`.
    #[inline]
    unsafe fn new(filter: *mut bindings::bdev_filter) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            filter,
            _brand: PhantomData,
            _not_thread_safe: NotThreadSafe,
        }
    }

    /// Whether a bio is one of this filter on this device.
    #[inline]
    fn owns(&self, bio: &OwnedBio<T>) -> bool {
        self.filter == bio.filter.as_ptr()
    }

    /// Sleeps for a time, but not longer than until the filter is to leave its device. Returns
    /// whether that has not happened.
    ///
    /// Rounded up to jiffies.
    pub fn sleep(&self, time: Delta) -> bool {
        let ms = time.as_millis_ceil();
        let ms = u32::try_from(ms).unwrap_or(if ms < 0 { 0 } else { u32::MAX });
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_filter_sleep(self.filter, msecs_to_jiffies(ms)) }
    }
}

/// What a filter can do in [`BlkFilter::detached`]: I/O of its own to the device that it was on.
///
/// # Invariants
///
/// We are inside [`BlkFilter::detached`] of `filter`, which is one of a `T`.
pub struct DetachedContext<'a, T: BlkFilter> {
    filter: *mut bindings::bdev_filter,
    _brand: PhantomData<fn(&'a T) -> &'a T>,
    _not_thread_safe: NotThreadSafe,
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
        flags: Self::FLAGS,
        attach: Some(Self::attach_callback),
        submit_bio: Some(Self::submit_bio_callback),
        process: if T::HAS_PROCESS {
            Some(Self::process_callback)
        } else {
            None
        },
        resized: if T::HAS_RESIZED {
            Some(Self::resized_callback)
        } else {
            None
        },
        let_go: if T::HAS_LET_GO {
            Some(Self::let_go_callback)
        } else {
            None
        },
        detached: if T::HAS_DETACHED {
            Some(Self::detached_callback)
        } else {
            None
        },
        release: Some(Self::release_callback),
    };

    const FLAGS: u32 = {
        assert!(
            T::TAKES || !(T::HAS_PROCESS || T::HAS_LET_GO),
            "a filter with `process` or `let_go` must have TAKES"
        );
        let mut flags = 0;
        if T::OPTIONS {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_OPTIONS;
        }
        if T::TAKES {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_TAKES;
        }
        if T::ARMS {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_ARMS;
        }
        if T::SAVES {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_SAVES;
        }
        if T::ZONED {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_ZONED;
        }
        if T::CRYPTO {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_CRYPTO;
        }
        if T::INTEGRITY {
            flags |= bindings::bdev_filter_flags_BDEV_FILTER_INTEGRITY;
        }
        flags
    };

    const fn build() -> &'static bindings::bdev_filter_operations {
        &Self::VTABLE
    }

    /// # Safety
    ///
    /// `flt` must point to an allocation for a `Filter<T>` with `data` not initialized, `data` to a
    /// `T::RegistrationData` that is not dropped before this returns, and `options` to a string.
    unsafe extern "C" fn attach_callback(
        flt: *mut bindings::bdev_filter,
        data: *mut c_void,
        options: *const c_char,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        let data = unsafe { &*data.cast::<T::RegistrationData>() };
        let info = AttachInfo {
            // CAST: `Opaque` is a transparent wrapper.
            // SAFETY: C initialized its part, and keeps it for longer than this call.
            filter: unsafe { &*flt.cast() },
            // SAFETY: By the safety requirements.
            options: unsafe { CStr::from_char_ptr(options) },
        };
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
    /// To be called by C on a filter that was attached and is not released, with a bio that it took
    /// and deferred.
    unsafe extern "C" fn process_callback(
        flt: *mut bindings::bdev_filter,
        bio: *mut bindings::bio,
    ) {
        // SAFETY: `attach` succeeded. The bio keeps the filter from being released, and the release
        // waits for this function even when the bio is finished.
        let this = unsafe { Filter::<T>::data(flt) };
        // SAFETY: As above, and this is `process`.
        let cx = unsafe { Context::new(flt) };
        // SAFETY: By the safety requirements.
        let bio = unsafe { OwnedBio::from_raw(flt, bio) };

        T::process(this, &cx, bio);
    }

    /// # Safety
    ///
    /// To be called by C on an attached filter, in an RCU read section.
    unsafe extern "C" fn resized_callback(
        flt: *mut bindings::bdev_filter,
        nr_sectors: bindings::sector_t,
    ) {
        // SAFETY: As in `submit_bio_callback`.
        let this = unsafe { Filter::<T>::data(flt) };

        T::resized(this, nr_sectors);
    }

    /// # Safety
    ///
    /// To be called by C on a filter that was attached and is not released.
    unsafe extern "C" fn let_go_callback(flt: *mut bindings::bdev_filter) {
        // SAFETY: `attach` succeeded, `release` comes after us.
        let this = unsafe { Filter::<T>::data(flt) };

        T::let_go(this);
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
        // INVARIANT: This is `detached`.
        let cx = DetachedContext {
            filter: flt,
            _brand: PhantomData,
            _not_thread_safe: NotThreadSafe,
        };

        T::detached(
            this,
            &cx,
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
/// One that is leaked, as with [`mem::forget`](core::mem::forget), ends with its module.
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

/// Declares a module that brings one kind of filter and nothing else.
///
/// It takes what [`module!`] takes; `type` is the filter. If that has a
/// [`BlkFilter::RegistrationData`], it is made by the expression `data`, after `type`, which may
/// use `?`.
///
/// # Examples
///
/// ```ignore
/// kernel::module_blk_filter! {
///     type: MyFilter,
///     name: "my_filter",
///     authors: ["Me"],
///     description: "Lets everything pass",
///     license: "GPL",
///     alias: ["blkfilter-my_filter"],
/// }
/// ```
///
/// [`module!`]: crate::prelude::module
#[macro_export]
macro_rules! module_blk_filter {
    (type: $type:ty, data: $data:expr, $($rest:tt)*) => {
        #[$crate::prelude::pin_data]
        struct BlkFilterModule {
            #[pin]
            _registration: $crate::block::filter::Registration<$type>,
        }

        impl $crate::InPlaceModule for BlkFilterModule {
            fn init(
                _module: &'static $crate::ThisModule,
            ) -> impl ::pin_init::PinInit<Self, $crate::error::Error> {
                ::pin_init::pin_init_scope(move || {
                    let data = $data;
                    Ok($crate::try_pin_init!(Self {
                        _registration <- $crate::block::filter::Registration::new(Ok(data)),
                    }))
                })
            }
        }

        $crate::prelude::module! {
            type: BlkFilterModule,
            $($rest)*
        }
    };
    (type: $type:ty, $($rest:tt)*) => {
        $crate::module_blk_filter! { type: $type, data: (), $($rest)* }
    };
}

/// A filter that the kernel attached by itself; it is detached when this is dropped.
///
/// Dropping it detaches the filter and waits until it is released. If user space or the removal of
/// the device was faster, it only waits. A fatal signal ends the wait, but not while the module of
/// the filter is being loaded. It must not be dropped in a method of the filter itself, which would
/// wait for itself: the kernel warns then, and detaches the filter without waiting. Leaking it
/// leaves the filter where it is, unless its module then fails to load: that detaches it.
///
/// The filter pins its module. So one that is in the module's own structure keeps the module from
/// ever being unloaded, unless user space or removal ends it.
///
/// # Examples
///
/// ```
/// use kernel::block::{
///     bdev::{
///         BdevFile,
///         OpenMode, //
///     },
///     filter::{
///         Attachment,
///         BlkFilter, //
///     }, //
/// };
///
/// fn attach_to<T: BlkFilter<RegistrationData = ()>>(path: &CStr) -> Result<Attachment<T>> {
///     let disk = BdevFile::open(path, OpenMode::Read)?;
///     let attachment = Attachment::new(&disk, &(), None)?;
///     pr_info!("attached to {:?}\n", attachment.device_name());
///     Ok(attachment)
/// }
/// ```
///
/// # Invariants
///
/// `filter` is what attaching returned, not given back yet.
#[must_use = "the filter is detached when this is dropped"]
pub struct Attachment<T: BlkFilter> {
    filter: NonNull<bindings::bdev_filter>,
    _filter: PhantomData<fn() -> T>,
}

// SAFETY: It can be detached by any thread, and C drops the state on a workqueue; `T` is `Send`.
unsafe impl<T: BlkFilter> Send for Attachment<T> {}
// SAFETY: A shared reference gives only what does not change.
unsafe impl<T: BlkFilter> Sync for Attachment<T> {}

impl<T: BlkFilter> Attachment<T> {
    /// Attaches a filter to a device, which need not be open any more afterwards.
    ///
    /// [`EALREADY`] if it has such a filter, [`EBUSY`] if it has another, [`EOPNOTSUPP`] if the
    /// filter does not cope with the device, see [`BlkFilter::ZONED`] and those after it;
    /// [`ENODEV`] if the device is being removed, [`ENOENT`] if our module is being unloaded, and
    /// errors of [`BlkFilter::attach`]. The type need not be registered.
    ///
    /// Process context, may sleep.
    pub fn new(
        device: &BdevFile,
        data: &T::RegistrationData,
        options: Option<&CStr>,
    ) -> Result<Self> {
        let options = options.map_or(core::ptr::null(), |options| options.as_char_ptr());
        // SAFETY: The device is open until this returns. `data` is used by `attach` only, which
        // does not change it. The operations are static.
        let filter = from_err_ptr(unsafe {
            bindings::bdev_filter_attach(
                device.as_raw(),
                OperationsVTable::<T>::build(),
                core::ptr::from_ref(data).cast_mut().cast(),
                options,
            )
        })?;
        // INVARIANT: Just attached.
        Ok(Self {
            filter: NonNull::new(filter).ok_or(EINVAL)?,
            _filter: PhantomData,
        })
    }

    /// Returns the name of the device. It may be gone by now.
    pub fn device_name(&self) -> &CStr {
        // SAFETY: By the type invariants the memory is still there, and the name does not change.
        unsafe { CStr::from_char_ptr((&raw const (*self.filter.as_ptr()).dev_name).cast()) }
    }
}

impl<T: BlkFilter> Drop for Attachment<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and it is not used after this.
        unsafe { bindings::bdev_filter_detach(self.filter.as_ptr()) };
    }
}
