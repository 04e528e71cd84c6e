// SPDX-License-Identifier: GPL-2.0
//~ E0277: what is remembered of a bio goes to another CPU
struct Mine;

#[vtable]
impl BlkFilter for Mine {
    const NAME: &'static CStr = c"mine";
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Err::<Self, _>(ENXIO)
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }
}

impl EndIo for Mine {
    type Data = *mut u8; //~ bad
    type Data = u8; //~ good

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: Self::Data) {}
}
