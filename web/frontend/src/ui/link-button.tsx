import { Button, type ButtonProps } from "@mantine/core";
import { createLink } from "@tanstack/react-router";
import { forwardRef } from "react";

const AnchorButton = forwardRef<HTMLAnchorElement, ButtonProps>(function AnchorButton(props, ref) {
  return <Button component="a" ref={ref} {...props} />;
});

/** A link inside the app that looks like a button. */
export const LinkButton = createLink(AnchorButton);
