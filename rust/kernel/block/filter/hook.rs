// SPDX-License-Identifier: GPL-2.0

//! Completion hooks: a filter learns how a bio ended.

use super::{
    BlkFilter,
    Context,
    Filter,
    FilteredBio,
    IncomingBio,
    OwnedBio,
    Verdict, //
};
use crate::{
    bindings,
    block::{
        bio::{
            BlkStatus,
            Data,
            DataMut,
            Op,
            ReqFlags, //
        },
        SECTOR_SHIFT, //
    },
    prelude::*,
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// A filter that hooks the completion of bios.
///
/// Which ones it decides bio by bio: [`IncomingBio::pass_armed`] and [`OwnedBio::resubmit_armed`].
///
/// # Examples
///
/// A filter that makes it known when a read fails:
///
/// ```
/// use kernel::block::{
///     bio::{
///         BlkStatus,
///         Op, //
///     },
///     filter::{
///         self,
///         BlkFilter,
///         CompletedBio,
///         Context,
///         EndIo,
///         IncomingBio,
///         OwnedBio,
///         Verdict, //
///     }, //
/// };
///
/// struct ReadErrors;
///
/// #[vtable]
/// impl BlkFilter for ReadErrors {
///     const NAME: &'static CStr = c"read_errors";
///     const TAKES: bool = true;
///     const ARMS: bool = true;
///     type RegistrationData = ();
///
///     fn attach(_: filter::AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
///         Ok(ReadErrors)
///     }
///
///     fn submit_bio<'cb>(_this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
///         if bio.op() != Op::READ {
///             return bio.pass();
///         }
///         // Without memory it has to wait for some. One that is protected goes on unwatched.
///         bio.pass_armed(())
///             .or_else(|(bio, ())| bio.defer())
///             .unwrap_or_else(IncomingBio::pass)
///     }
///
///     fn process<'a>(_this: Pin<&'a Self>, cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
///         // It is not protected.
///         if let Err((bio, ())) = bio.resubmit_armed_wait(cx, ()) {
///             bio.resubmit();
///         }
///     }
/// }
///
/// impl EndIo for ReadErrors {
///     type Data = ();
///
///     fn end_io(_this: Pin<&Self>, bio: CompletedBio<'_>, (): ()) {
///         if bio.status() != BlkStatus::OK {
///             pr_info!("sector {}: {}\n", bio.sector(), bio.status());
///         }
///     }
/// }
/// ```
pub trait EndIo: BlkFilter {
    /// What the filter remembers of a bio: at most 16 bytes, aligned no better than a [`u64`],
    /// which cost no allocation.
    ///
    /// It is given to [`end_io`](Self::end_io), which may drop it in an interrupt: dropping it must
    /// not sleep.
    type Data: Send + 'static;

    /// Called when a bio that was armed completes, just before whoever submitted it learns of it.
    ///
    /// In any context, also in a hard interrupt, and not preemptible: it must not sleep, see
    /// [`BlkFilter::submit_bio`], and a lock that it shares with the other methods has to be one
    /// that disables interrupts.
    fn end_io(this: Pin<&Self>, bio: CompletedBio<'_>, data: Self::Data);
}

/// A bio that has completed, inside [`EndIo::end_io`].
///
/// # Examples
///
/// ```
/// use kernel::block::{
///     bio::BlkStatus,
///     filter::CompletedBio, //
/// };
///
/// /// Reads of the first sector fail.
/// fn fail_first_sector(mut bio: CompletedBio<'_>) {
///     if bio.sector() == 0 && bio.status() == BlkStatus::OK {
///         bio.set_status(BlkStatus::from(ENODATA));
///     }
/// }
///
/// /// Reads that have failed give the byte `x` instead; how many bytes that makes up for.
/// fn make_up(mut bio: CompletedBio<'_>) -> Result<u32> {
///     if bio.status() == BlkStatus::OK {
///         return Ok(0);
///     }
///     bio.data_mut().ok_or(EINVAL)?.fill(b'x');
///     bio.set_status(BlkStatus::OK);
///     Ok(bio.size())
/// }
/// ```
///
/// # Invariants
///
/// `bio` has completed, was armed with `hook`, and is nobody else's for `'a`. Its memory has been
/// initialized if it is a read and `filled`.
pub struct CompletedBio<'a> {
    bio: NonNull<bindings::bio>,
    hook: NonNull<bindings::bdev_filter_hook>,
    filled: bool,
    _bio: PhantomData<&'a mut bindings::bio>,
    _not_thread_safe: NotThreadSafe,
}

impl CompletedBio<'_> {
    #[inline]
    fn opf(&self) -> u32 {
        // SAFETY: By the type invariants.
        unsafe { (*self.bio.as_ptr()).bi_opf }
    }

    #[inline]
    fn iter(&self) -> bindings::bvec_iter {
        // SAFETY: By the type invariants. It does not change.
        unsafe { (*self.hook.as_ptr()).iter }
    }

    /// Returns the operation.
    #[inline]
    pub fn op(&self) -> Op {
        Op::from_opf(self.opf())
    }

    /// Returns the flags.
    #[inline]
    pub fn flags(&self) -> ReqFlags {
        ReqFlags::from_opf(self.opf())
    }

    /// Returns the first sector, in units of 512 bytes, relative to the device that is filtered.
    #[inline]
    pub fn sector(&self) -> u64 {
        // SAFETY: By the type invariants. It does not change.
        unsafe { (*self.hook.as_ptr()).sector }
    }

    /// Returns the length in bytes that the bio had when it was armed.
    #[inline]
    pub fn size(&self) -> u32 {
        self.iter().bi_size
    }

    /// Returns the length in sectors of 512 bytes, see [`size`](Self::size).
    #[inline]
    pub fn nr_sectors(&self) -> u32 {
        self.size() >> SECTOR_SHIFT
    }

    /// Returns how the bio ended.
    #[inline]
    pub fn status(&self) -> BlkStatus {
        // SAFETY: By the type invariants.
        BlkStatus::from_raw(unsafe { (*self.bio.as_ptr()).bi_status })
    }

    /// Sets how the bio ended, for whoever submitted it.
    ///
    /// A read that failed and gets a good status, without [`data_mut`](Self::data_mut) before, has
    /// read zeroes.
    #[inline]
    pub fn set_status(&mut self, status: BlkStatus) {
        let mut status = status;
        if status == BlkStatus::OK && !self.filled && self.op() == Op::READ && self.size() != 0 {
            // It is memory that only the device can fill.
            if self.data_mut().is_none() {
                status = BlkStatus::IOERR;
            }
        }
        // SAFETY: By the type invariants it is ours to change.
        unsafe { (*self.bio.as_ptr()).bi_status = status.as_raw() };
    }

    #[inline]
    fn has_data(&self) -> bool {
        // SAFETY: By the type invariants the bio is valid, and it has data there. What the filter
        // may not look at for another reason can't be armed.
        self.op().has_data()
            && self.size() != 0
            && unsafe { bindings::bdev_filter_may_copy(self.bio.as_ptr(), self.iter()) }
    }

    /// Returns the data that was written or read, if there is some: not if a read failed.
    #[inline]
    pub fn data(&self) -> Option<Data<'_>> {
        if !self.has_data() || (self.op() == Op::READ && self.status() != BlkStatus::OK) {
            return None;
        }
        // SAFETY: By the type invariants, and as the bio has data that we may touch. The position
        // is that of arming: that in the bio has moved on.
        Some(unsafe { Data::new(self.bio, self.iter()) })
    }

    /// Returns the data of a read, to be changed: whoever submitted it gets that. Filling it in and
    /// setting a good [status](Self::set_status) makes up for a read that failed, of which all is
    /// zero at first.
    #[inline]
    pub fn data_mut(&mut self) -> Option<DataMut<'_>> {
        if self.op() != Op::READ || !self.has_data() {
            return None;
        }
        // SAFETY: As in `data`. The device is through with the bio, and the submitter waits for it.
        let mut data = unsafe { DataMut::new(self.bio, self.iter()) };
        if !self.filled {
            data.fill(0);
            // INVARIANT: Just now.
            self.filled = true;
        }
        Some(data)
    }
}

/// # Safety
///
/// To be called by C when a bio completes that was armed by [`arm`] for a `T`.
unsafe extern "C" fn end_io_callback<T: EndIo>(
    flt: *mut bindings::bdev_filter,
    bio: *mut bindings::bio,
    hook: *mut bindings::bdev_filter_hook,
) {
    // SAFETY: The bio keeps the filter from being released until this returns.
    let this = unsafe { Filter::<T>::data(flt) };
    // SAFETY: `arm` put it there, and this is called once.
    let data = unsafe { (&raw const (*hook).data).cast::<T::Data>().read() };
    // SAFETY: The bio is valid.
    let ok = unsafe { (*bio).bi_status } == BlkStatus::OK.as_raw();
    // INVARIANT: By the safety requirements. The lifetime ends with this function. A read that went
    // well has initialized its memory.
    let bio = CompletedBio {
        // SAFETY: C passes the bio that completes.
        bio: unsafe { NonNull::new_unchecked(bio) },
        // SAFETY: And its hook.
        hook: unsafe { NonNull::new_unchecked(hook) },
        filled: ok,
        _bio: PhantomData,
        _not_thread_safe: NotThreadSafe,
    };

    T::end_io(this, bio, data);
}

/// What C remembers of a bio for the filter.
type HookData = [u64; 2];

/// Arms a bio that goes on right after this.
///
/// # Safety
///
/// Where `WAIT` this must be in `process` of the filter of the bio.
#[inline]
unsafe fn arm<T: EndIo, const WAIT: bool>(bio: &FilteredBio, data: T::Data) -> Result<(), T::Data> {
    const_assert!(T::ARMS, "a filter that arms bios must have ARMS");
    const_assert!(
        size_of::<T::Data>() <= size_of::<HookData>()
            && align_of::<T::Data>() <= align_of::<HookData>(),
        "EndIo::Data is at most 16 bytes"
    );
    let arm = if WAIT {
        bindings::bdev_filter_arm_wait
    } else {
        bindings::bdev_filter_arm
    };
    // SAFETY: By the type invariants of `FilteredBio` both are valid, and nobody else has the bio.
    // The context is right by the safety requirements.
    let hook = unsafe {
        arm(
            bio.filter.as_ptr(),
            bio.as_raw(),
            Some(end_io_callback::<T>),
        )
    };
    if hook.is_null() {
        return Err(data);
    }
    // SAFETY: The hook is valid until the bio completes, which it can't before it goes on.
    let slot: *mut HookData = unsafe { &raw mut (*hook).data };
    // SAFETY: There is room for the data, and it is aligned, by the assertion above.
    unsafe { slot.cast::<T::Data>().write(data) };
    Ok(())
}

impl<'cb, T: EndIo> IncomingBio<'cb, T> {
    /// Lets the bio go on to the device, and has [`EndIo::end_io`] called with `data` when it
    /// completes.
    ///
    /// Gives both back if there is no memory, which this does not wait for, or if the bio is
    /// [protected](FilteredBio::is_protected). The bio can then be [deferred](Self::defer).
    #[inline]
    pub fn pass_armed(self, data: T::Data) -> Result<Verdict<'cb>, (Self, T::Data)> {
        // SAFETY: It does not wait.
        match unsafe { arm::<T, false>(&self, data) } {
            Ok(()) => Ok(self.pass()),
            Err(data) => Err((self, data)),
        }
    }
}

impl<T: EndIo> OwnedBio<T> {
    /// Lets the bio go on below the filter, and has [`EndIo::end_io`] called with `data` when it
    /// completes.
    ///
    /// Gives both back if there is no memory.
    #[inline]
    pub fn resubmit_armed(self, data: T::Data) -> Result<(), (Self, T::Data)> {
        // SAFETY: It does not wait.
        match unsafe { arm::<T, false>(&self, data) } {
            Ok(()) => {
                self.resubmit();
                Ok(())
            }
            Err(data) => Err((self, data)),
        }
    }

    /// Does what [`resubmit_armed`](Self::resubmit_armed) does, and waits for memory: until another
    /// bio that is armed has completed.
    ///
    /// Gives both back only if the bio is [protected](FilteredBio::is_protected), or of another
    /// device than `cx`.
    #[inline]
    pub fn resubmit_armed_wait(
        self,
        cx: &Context<'_, T>,
        data: T::Data,
    ) -> Result<(), (Self, T::Data)> {
        if !cx.owns(&self) {
            return Err((self, data));
        }
        // SAFETY: By the type invariants of `Context` this is `process`, and of this filter.
        match unsafe { arm::<T, true>(&self, data) } {
            Ok(()) => {
                self.resubmit();
                Ok(())
            }
            Err(data) => Err((self, data)),
        }
    }
}
