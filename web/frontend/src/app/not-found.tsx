import { LinkButton } from "@/ui/link-button";
import { Empty } from "@/ui/notice";
import { Page } from "@/ui/page";

export function NotFoundPage() {
  return (
    <Page title="Not found">
      <Empty title="There is nothing at this address">
        <p className="muted">The link may be mistyped, or belong to another installation.</p>
        <LinkButton to="/runs">To the runs</LinkButton>
      </Empty>
    </Page>
  );
}
