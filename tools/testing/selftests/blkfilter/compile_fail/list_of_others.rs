// SPDX-License-Identifier: GPL-2.0
//~ E0308: a list is of one kind of filter
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

fn push(list: &mut BioList<Good>, mine: OwnedBio<Mine>, good: Owned) {
    list.push(mine); //~ bad
    list.push(good); //~ good
}
