// SPDX-License-Identifier: GPL-2.0
//~ E0599: who arms a bio has a function for its end
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

impl EndIo for Good {
    type Data = u64;

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: u64) {}
}

fn submit<'cb>(mine: IncomingBio<'cb, Mine>, good: Incoming<'cb>) {
    let _ = mine.pass_armed(0); //~ bad
    let _ = good.pass_armed(0); //~ good
}
